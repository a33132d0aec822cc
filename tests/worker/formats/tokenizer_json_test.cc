#include "worker/formats/tokenizer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "tests/worker/formats/token_ids.h"
#include "tests/worker/text/text_fixture.h"
#include "worker/formats/gguf.h"
#include "worker/formats/gguf_pre_tokenizer.h"
#include "worker/formats/import_source.h"

// Tokenizers made from SentencePiece files and from GGUF metadata give the ids of transformers.

namespace lathe {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kFolder[] = "tests/data/sentencepiece/";

Json Goldens(absl::string_view folder) {
  return Json::parse(ReadTestFile(absl::StrCat(folder, "goldens.json")));
}

SentencePieceOptions OptionsOf(const Json& config) {
  SentencePieceOptions options;
  options.tokenizer_class = config["tokenizer_class"];
  options.legacy = config.value("legacy", options.legacy);
  options.add_prefix_space = config.value("add_prefix_space", options.add_prefix_space);
  options.extra_ids = config.value("extra_ids", options.extra_ids);
  return options;
}

class SentencePieceIdsTest : public ::testing::TestWithParam<const char*> {};

TEST_P(SentencePieceIdsTest, AreThoseOfTransformers) {
  const Json golden = Goldens(kFolder)[GetParam()];
  const std::string file = golden["file"];
  const auto tokenizer = TokenizerJsonFromSentencePiece(ReadTestFile(absl::StrCat(kFolder, file)),
                                                        OptionsOf(golden["config"]));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectIds(*tokenizer, golden["ids"]);
}

INSTANTIATE_TEST_SUITE_P(Small, SentencePieceIdsTest,
                         ::testing::Values("bpe", "bpe-legacy", "bpe-without-blank", "unigram"));

class SentencePieceSpecialTextTest : public ::testing::TestWithParam<const char*> {};

TEST_P(SentencePieceSpecialTextTest, ATextThatLooksLikeAControlPieceStaysText) {
  const Json golden = Goldens(kFolder)[GetParam()];
  const std::string file = golden["file"];
  const auto tokenizer = TokenizerJsonFromSentencePiece(ReadTestFile(absl::StrCat(kFolder, file)),
                                                        OptionsOf(golden["config"]));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto model = LoadTextModel(*tokenizer, "");
  ASSERT_TRUE(model.ok()) << model.status();
  const Json rows = Json::parse(ReadTestFile(absl::StrCat(kFolder, "special_text.json")));
  for (const Json& row : rows[GetParam()]) {
    EXPECT_EQ(*(*model)->Encode(row["text"].get<std::string>(), /*special=*/false),
              row["ids"].get<std::vector<int32_t>>())
        << row["text"];
  }
}

INSTANTIATE_TEST_SUITE_P(Small, SentencePieceSpecialTextTest, ::testing::Values("bpe", "unigram"));

TEST(SentencePiecePeerTest, Mistral7BGivesTheIdsOfTransformers) {
  const auto bytes = ReadPeerFile("mistral-common/tokenizer.model.v1");
  if (!bytes.ok()) GTEST_SKIP() << "is not in the cache; run scripts/setup --only peers";
  const Json golden = Goldens(kFolder)["mistral-7b"];
  const auto tokenizer = TokenizerJsonFromSentencePiece(*bytes, OptionsOf(golden["config"]));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectIds(*tokenizer, golden["ids"]);
}

// Mistral's own tokenizer.json, which is in an npm package called llama2.
TEST(SentencePiecePeerTest, Mistral7BGivesTheIdsOfItsOwnTokenizerJson) {
  const auto bytes = ReadPeerFile("mistral-common/tokenizer.model.v1");
  if (!bytes.ok()) GTEST_SKIP() << "is not in the cache; run scripts/setup --only peers";
  const auto pieces = ParseSentencePiece(*bytes);
  ASSERT_TRUE(pieces.ok()) << pieces.status();
  const auto tokenizer =
      PieceTokenizerJson(*pieces, PieceStyle::kLegacy, /*merges_by_score=*/true, {});
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectIds(*tokenizer, Goldens("tests/data/public-tokenizers/")["llama2"]["special"]);
}

// A vocabulary of llama.cpp, and the tokenizer.json of the same model.
class GgufPeerTest : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(GgufPeerTest, GivesTheIdsOfHuggingFace) {
  const auto& [name, model] = GetParam();
  const auto path = PeerPath(absl::StrCat("llama-cpp-vocab/ggml-vocab-", name, ".gguf"));
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "is not in the cache; run scripts/setup --only peers";
  }
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto tokenizer = TokenizerJsonFromGguf(*file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectIds(*tokenizer, Goldens("tests/data/public-tokenizers/")[model]["special"]);
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, GgufPeerTest,
                         ::testing::Values(std::pair("llama-bpe", "llama3"),
                                           std::pair("qwen2", "qwen2_5")));

// llama.cpp's own expectations: texts and, line by line, their ids.
class GgufVocabularyTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufVocabularyTest, GivesTheIdsOfLlamaCpp) {
  const std::string base = absl::StrCat("llama-cpp-vocab/ggml-vocab-", GetParam(), ".gguf");
  const auto texts = ReadPeerFile(base + ".inp");
  const auto expected = ReadPeerFile(base + ".out");
  if (!texts.ok() || !expected.ok()) {
    GTEST_SKIP() << "is not in the cache; run scripts/setup --only peers";
  }
  const auto file = GgufFile::Open(PeerPath(base));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto tokenizer = TokenizerJsonFromGguf(*file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto model = LoadTextModel(*tokenizer, "");
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<std::string> parts = absl::StrSplit(*texts, "\n__ggml_vocab_test__\n");
  const std::vector<std::string> lines = absl::StrSplit(*expected, '\n');
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    const auto ids = (*model)->Encode(parts[i], /*special=*/false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(absl::StrCat(ids->empty() ? "" : " ", absl::StrJoin(*ids, " ")), lines[i])
        << "text " << i << ": " << parts[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, GgufVocabularyTest,
                         ::testing::Values("gpt-2", "llama-bpe", "llama-spm", "phi-3", "refact",
                                           "starcoder", "command-r", "qwen2"));

TEST(SentencePieceTest, ATruncatedFileIsRefusedOrShorter) {
  const std::string bytes = ReadTestFile(absl::StrCat(kFolder, "unigram.model"));
  const auto whole = ParseSentencePiece(bytes);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_TRUE(whole->is_unigram);
  EXPECT_EQ(whole->unk_id, 2);
  EXPECT_FALSE(whole->charsmap.empty());
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto part = ParseSentencePiece(absl::string_view(bytes).substr(0, size));
    if (part.ok()) {
      EXPECT_LE(part->pieces.size(), whole->pieces.size());
    }
  }
}

TEST(SentencePieceTest, RefusesWhatIsNone) {
  const auto fault = [](absl::string_view bytes) {
    const auto model = ParseSentencePiece(bytes);
    EXPECT_FALSE(model.ok());
    return std::string(model.status().message());
  };
  const std::string piece = "\x0A\x03\x0A\x01x";  // One piece, "x".
  EXPECT_THAT(fault(""), HasSubstr("has 0 pieces"));
  EXPECT_THAT(fault("\x0A\x7Fx"), HasSubstr("ends beyond its message"));
  EXPECT_THAT(fault("\x0B"), HasSubstr("wire type 3"));
  EXPECT_THAT(fault("\x08\x01"), HasSubstr("a message is a number"));
  EXPECT_THAT(fault(piece + piece), HasSubstr("\"x\" twice"));
  EXPECT_THAT(fault("\x0A\x03\x0A\x01\xC3"), HasSubstr("piece 0 is not UTF-8"));
  EXPECT_THAT(fault("\x0A\x05\x0A\x01x\x18\x09"), HasSubstr("of type 9"));
  EXPECT_THAT(fault(piece + "\x12\x02\x18\x04"),
              HasSubstr("supported are 1 (Unigram) and 2 (BPE)"));
  EXPECT_THAT(fault(piece + "\x12\x03\xC0\x02\x07"), HasSubstr("unk_id is 7"));
  EXPECT_THAT(fault("\x0A\x08\x0A\x01x\x15" + std::string("\0\0\xC0\x7F", 4)),
              HasSubstr("not finite"));
  EXPECT_THAT(fault(absl::StrCat("\x0A\x84\x08\x0A\x81\x08", std::string(1025, 'x'))),
              HasSubstr("has 1025 bytes"));
}

TEST(SentencePieceTest, AnUnknownClassIsRefusedWithTheListOfThoseThatAre) {
  const std::string bytes = ReadTestFile(absl::StrCat(kFolder, "bpe.model"));
  const auto json = TokenizerJsonFromSentencePiece(bytes, {.tokenizer_class = "XLNetTokenizer"});
  EXPECT_EQ(json.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(json.status().message()),
              AllOf(HasSubstr("\"XLNetTokenizer\""), HasSubstr("LlamaTokenizer"),
                    HasSubstr("T5Tokenizer"), HasSubstr("ChatGLMTokenizer")));
  const auto wrong = TokenizerJsonFromSentencePiece(bytes, {.tokenizer_class = "T5Tokenizer"});
  EXPECT_THAT(std::string(wrong.status().message()), HasSubstr("is a BPE model"));
}

TEST(SentencePieceTest, ChatGlmAndT5HaveTheirOwnTokensAfterThePieces) {
  const std::string bpe = ReadTestFile(absl::StrCat(kFolder, "bpe.model"));
  const auto glm = TokenizerJsonFromSentencePiece(bpe, {.tokenizer_class = "ChatGLMTokenizer"});
  ASSERT_TRUE(glm.ok()) << glm.status();
  const auto pieces = static_cast<int32_t>(ParseSentencePiece(bpe)->pieces.size());
  const auto model = LoadTextModel(*glm, "");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->TokenId("[MASK]"), pieces);
  EXPECT_EQ((*model)->TokenId("sop"), pieces + 3);
  EXPECT_EQ((*model)->TokenId("<|observation|>"), pieces + 8);

  const std::string unigram = ReadTestFile(absl::StrCat(kFolder, "unigram.model"));
  const auto t5 =
      TokenizerJsonFromSentencePiece(unigram, {.tokenizer_class = "T5Tokenizer", .extra_ids = 3});
  const auto t5_model = LoadTextModel(*t5, "");
  ASSERT_TRUE(t5_model.ok()) << t5_model.status();
  const auto count = static_cast<int32_t>(ParseSentencePiece(unigram)->pieces.size());
  EXPECT_EQ((*t5_model)->TokenId("<extra_id_2>"), count);
  EXPECT_EQ((*t5_model)->TokenId("<extra_id_0>"), count + 2);
}

TEST(GgufPreTokenizerTest, AnUnknownNameIsRefusedWithTheListOfThoseThatAre) {
  const auto found = FindGgufPreTokenizer("chameleon");
  EXPECT_EQ(found.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(found.status().message()),
              AllOf(HasSubstr("\"chameleon\""), HasSubstr("\"default\""),
                    HasSubstr("\"llama-bpe\""), HasSubstr("\"qwen2\""), HasSubstr("\"smollm\"")));
  EXPECT_TRUE(FindGgufPreTokenizer("llama-bpe")->ignore_merges);
}

// Digits in threes and marks by themselves: llama.cpp's rules for files that name none.
TEST(GgufPreTokenizerTest, DefaultCutsMarksAndDigits) {
  const auto pre = FindGgufPreTokenizer("default");
  ASSERT_TRUE(pre.ok());
  Json tokenizer = Json::parse(ReadTestFile("tests/data/chat-templates/tokenizer.json"));
  tokenizer["pre_tokenizer"] = Json::parse(pre->json);
  tokenizer["model"]["vocab"] = {{"a", 0},  {"+", 1},  {"1", 2},   {"2", 3},   {"++", 4},
                                 {"a+", 5}, {"12", 6}, {"121", 7}, {"1212", 8}};
  tokenizer["model"]["merges"] = {"1 2", "+ +", "a +", "12 1", "121 2"};
  tokenizer["added_tokens"] = Json::array();
  const auto model = LoadTextModel(tokenizer.dump(), "");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(*(*model)->Encode("a++1212", false), ::testing::ElementsAre(0, 4, 7, 3));
}

// Each is a text of its own, behind which the tokenizer of transformers puts </s>.
TEST(SourceTargetTest, IdsAreThoseOfT5TokenizerForSourceAndTarget) {
  const auto tokenizer = TokenizerJsonFromSentencePiece(
      ReadTestFile(absl::StrCat(kFolder, "unigram.model")), {.tokenizer_class = "T5Tokenizer"});
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto model =
      LoadTextModel(*tokenizer, R"({"eos_token": "</s>"})", R"({"is_encoder_decoder": true})");
  ASSERT_TRUE(model.ok()) << model.status();
  const Json golden = Json::parse(ReadTestFile("tests/data/goldens/source_target_ids.json"));
  for (const Json& row : golden.at("rows")) {
    std::vector<int32_t> expected = row.at("source_ids");
    const size_t source = expected.size();
    for (const Json& id : row.at("target_ids")) expected.push_back(id);
    const auto tokens =
        (*model)->Render({{Role::kUser, row.at("source")}, {Role::kAssistant, row.at("target")}},
                         /*generation_prompt=*/false);
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    EXPECT_EQ(IdsOf(*tokens), expected) << row.at("source");
    for (size_t i = 0; i < tokens->size(); ++i) EXPECT_EQ((*tokens)[i].trained, i >= source);
    const auto prompt =
        (*model)->Render({{Role::kUser, row.at("source")}}, /*generation_prompt=*/true);
    EXPECT_EQ(IdsOf(*prompt), row.at("source_ids").get<std::vector<int32_t>>());
  }
}

}  // namespace
}  // namespace lathe
