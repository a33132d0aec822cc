#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "tests/worker/text/text_fixture.h"

// Token ids of the real tokenizers of public models, on 2,000 strings: equal to Hugging Face's. The
// tokenizers are megabytes and lie in the cache.

namespace lathe {
namespace {

using Json = nlohmann::json;

constexpr char kFolder[] = "tests/data/public-tokenizers/";
constexpr size_t kBlock = 10;

// As tests/oracle/make_token_ids.py digests a block of strings.
std::string DigestOf(const TextModel& model, const Json& strings, size_t begin, bool special) {
  std::string bytes;
  for (size_t i = begin; i < begin + kBlock; ++i) {
    auto ids = model.Encode(strings[i].get<std::string>(), special);
    EXPECT_TRUE(ids.ok()) << ids.status();
    if (!ids.ok()) return "";
    ids->push_back(-1);
    const size_t size = bytes.size();
    bytes.resize(size + ids->size() * sizeof(int32_t));
    std::memcpy(bytes.data() + size, ids->data(), ids->size() * sizeof(int32_t));
  }
  return Sha256Hex(bytes).substr(0, 8);
}

void Compare(const TextModel& model, const Json& golden, const Json& strings) {
  for (const bool special : {true, false}) {
    const std::string digests = golden[special ? "special" : "plain"];
    for (size_t i = 0; i < strings.size(); i += kBlock) {
      EXPECT_EQ(DigestOf(model, strings, i, special), digests.substr(i / kBlock * 8, 8))
          << "strings " << i << " to " << i + kBlock - 1 << (special ? "" : ", as plain text");
    }
  }
}

class PublicTokenizerTest : public ::testing::TestWithParam<const char*> {};

TEST_P(PublicTokenizerTest, GivesTheIdsOfHuggingFace) {
  const auto tokenizer = ReadPeerFile(absl::StrCat(GetParam(), "/tokenizer.json"));
  if (!tokenizer.ok()) GTEST_SKIP() << "is not in the cache; run scripts/setup --only peers";
  const Json golden = Json::parse(ReadTestFile(absl::StrCat(kFolder, "goldens.json")))[GetParam()];
  ASSERT_EQ(Sha256Hex(*tokenizer), golden["sha256"]);
  const auto model = LoadTextModel(*tokenizer, "");
  ASSERT_TRUE(model.ok()) << model.status();
  const Json strings = Json::parse(ReadTestFile(absl::StrCat(kFolder, "strings.json")));
  ASSERT_EQ(strings.size(), 2000u);
  Compare(**model, golden, strings);
}

INSTANTIATE_TEST_SUITE_P(Models, PublicTokenizerTest,
                         ::testing::Values("qwen2_5", "qwen3", "llama3", "chatglm3", "llama2",
                                           "mistral_nemo", "deepseek_v3"),
                         [](const auto& tokenizer) { return std::string(tokenizer.param); });

}  // namespace
}  // namespace lathe
