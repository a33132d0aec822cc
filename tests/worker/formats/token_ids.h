#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "common/base/sha256.h"
#include "tests/worker/text/text_fixture.h"

namespace lathe {

// As tests/oracle/make_token_ids.py digests a block of strings.
inline constexpr size_t kIdsBlock = 10;
inline std::string DigestOf(const TextModel& model, const nlohmann::json& strings, size_t begin) {
  std::string bytes;
  for (size_t i = begin; i < begin + kIdsBlock; ++i) {
    auto ids = model.Encode(strings[i].get<std::string>(), /*special=*/true);
    EXPECT_TRUE(ids.ok()) << ids.status();
    if (!ids.ok()) return "";
    ids->push_back(-1);
    const size_t size = bytes.size();
    bytes.resize(size + ids->size() * sizeof(int32_t));
    std::memcpy(bytes.data() + size, ids->data(), ids->size() * sizeof(int32_t));
  }
  return Sha256Hex(bytes).substr(0, 8);
}

// That the tokenizer gives the digested ids on all strings of tests/data/public-tokenizers.
inline void ExpectIds(absl::string_view tokenizer_json, const std::string& digests) {
  const auto model = LoadTextModel(tokenizer_json, "");
  ASSERT_TRUE(model.ok()) << model.status();
  const auto strings =
      nlohmann::json::parse(ReadTestFile("tests/data/public-tokenizers/strings.json"));
  ASSERT_EQ(strings.size() / kIdsBlock * 8, digests.size());
  for (size_t i = 0; i < strings.size(); i += kIdsBlock) {
    EXPECT_EQ(DigestOf(**model, strings, i), digests.substr(i / kIdsBlock * 8, 8))
        << "strings " << i << " to " << i + kIdsBlock - 1;
  }
}

}  // namespace lathe
