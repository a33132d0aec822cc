#include "worker/formats/gguf_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "tests/worker/formats/token_ids.h"
#include "tests/worker/text/text_fixture.h"
#include "worker/formats/gguf_writer.h"
#include "worker/formats/import_source.h"
#include "worker/formats/tokenizer_json.h"

// A tokenizer written into a GGUF file and read again gives the same ids.

namespace lathe {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

// tokenizer.json, or what refused it.
absl::StatusOr<std::string> ThroughGguf(const std::string& tokenizer, int64_t vocab_size,
                                        const std::string& tokenizer_config = "{}") {
  const auto folder = TempFolder::Make("gguf-vocabulary-test");
  const auto put = [&](const char* name, const std::string& text) {
    EXPECT_TRUE(WriteFileAtomically(folder->path() / name, text).ok());
  };
  put("tokenizer.json", tokenizer);
  put("tokenizer_config.json", tokenizer_config);
  put("chat_template.jinja", "template");
  ModelConfig config;
  config.vocab_size = vocab_size;
  const auto entries = GgufVocabulary(folder->path(), config, /*is_llama=*/false);
  if (!entries.ok()) return entries.status();
  auto writer = GgufWriter::Create(folder->path() / "x.gguf", *entries, {});
  EXPECT_TRUE(writer.ok() && writer->Finish().ok());
  const auto file = GgufFile::Open(folder->path() / "x.gguf");
  if (!file.ok()) return file.status();
  return TokenizerJsonFromGguf(*file);
}

std::string SmallPieces(PieceStyle style, bool merges_by_score = false) {
  const std::string bytes = ReadTestFile("tests/data/sentencepiece/bpe.model");
  return *PieceTokenizerJson(*ParseSentencePiece(bytes), style, merges_by_score, {});
}

TEST(GgufVocabularyTest, PiecesGiveTheIdsOfTransformers) {
  const Json goldens = Json::parse(ReadTestFile("tests/data/sentencepiece/goldens.json"));
  const auto tokenizer = ThroughGguf(SmallPieces(PieceStyle::kNever), 1024);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectIds(*tokenizer, goldens["bpe-without-blank"]["ids"]);
}

TEST(GgufVocabularyTest, TheTinyLlamaGivesTheIdsOfTransformers) {
  const auto tokenizer = ThroughGguf(ReadTestFile("tests/data/tiny-llama/tokenizer.json"), 384);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto model = LoadTextModel(*tokenizer, "");
  ASSERT_TRUE(model.ok()) << model.status();
  const Json tokens = Json::parse(ReadTestFile("tests/data/goldens/tokens.json"));
  for (const Json& entry : tokens["texts"]) {
    const std::string text = entry["text"];
    EXPECT_EQ(*(*model)->Encode(text, true), entry["ids"].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(*(*model)->Encode(text, false), entry["ids_plain"].get<std::vector<int32_t>>());
  }
}

std::vector<GgufToken> TokensOf(const SentencePieceModel& model) {
  std::vector<GgufToken> tokens;
  for (const Piece& piece : model.pieces) tokens.push_back({std::string(piece.text), piece.type});
  return tokens;
}

// The scores that were lost in tokenizer.json, found again in its order of merges. A piece of
// another kind that pairs make moves all of them by one.
TEST(ScorePiecesTest, AreThoseOfTheSentencePieceFile) {
  const std::string bytes = ReadTestFile("tests/data/sentencepiece/bpe.model");
  const auto model = ParseSentencePiece(bytes);
  for (const bool by_score : {false, true}) {
    const Json tokenizer = Json::parse(SmallPieces(PieceStyle::kLegacy, by_score));
    const auto pieces = ScorePieces(tokenizer, TokensOf(*model));
    ASSERT_TRUE(pieces.ok()) << pieces.status();
    EXPECT_TRUE(pieces->blank_before_text);
    size_t first = 0;
    while (model->pieces[first].type != PieceType::kNormal) ++first;
    const float moved = pieces->scores[first] - model->pieces[first].score;
    for (size_t id = first; id < model->pieces.size(); ++id) {
      if (model->pieces[id].type != PieceType::kNormal) continue;
      EXPECT_EQ(pieces->scores[id], model->pieces[id].score + moved) << model->pieces[id].text;
    }
  }
}

TEST(ScorePiecesTest, WhatScoresCannotSayIsRefused) {
  const std::string bytes = ReadTestFile("tests/data/sentencepiece/bpe.model");
  const auto tokens = TokensOf(*ParseSentencePiece(bytes));
  const auto fault = [&](const Json& tokenizer) {
    const auto pieces = ScorePieces(tokenizer, tokens);
    EXPECT_FALSE(pieces.ok());
    return std::string(pieces.status().message());
  };
  const Json whole = Json::parse(SmallPieces(PieceStyle::kLegacy));
  EXPECT_THAT(fault(Json::parse(SmallPieces(PieceStyle::kFirst))),
              HasSubstr("\"prepend_scheme\":\"first\""));
  Json fewer = whole;
  fewer["model"]["merges"].erase(3);
  EXPECT_THAT(fault(fewer), HasSubstr("pairs that make a token"));
  Json twice = whole;
  twice["model"]["merges"].push_back(twice["model"]["merges"][0]);
  EXPECT_THAT(fault(twice), HasSubstr("each pair once"));
  // Two pairs of one whole, and the merge of another between them.
  Json apart = whole;
  Json& merges = apart["model"]["merges"];
  const auto text = [&](size_t i) {
    return MergeParts(merges[i])->first + MergeParts(merges[i])->second;
  };
  size_t first = 0;
  while (text(first) != text(first + 1)) ++first;
  const Json moved = merges[first];
  merges.erase(first);
  merges.push_back(moved);
  EXPECT_THAT(fault(apart), HasSubstr("has others between the pairs of"));
}

// tokenizer.json of public models.
class GgufVocabularyPeerTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufVocabularyPeerTest, GivesTheIdsOfHuggingFace) {
  const auto bytes = ReadPeerFile(absl::StrCat(GetParam(), "/tokenizer.json"));
  const auto config = ReadPeerFile(absl::StrCat(GetParam(), "/tokenizer_config.json"));
  if (!bytes.ok() || !config.ok()) {
    GTEST_SKIP() << "is not in the cache; run scripts/setup --only peers";
  }
  const auto tokenizer = ThroughGguf(*bytes, 200000, *config);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const Json goldens = Json::parse(ReadTestFile("tests/data/public-tokenizers/goldens.json"));
  ExpectIds(*tokenizer, goldens[GetParam()]["special"]);
}

INSTANTIATE_TEST_SUITE_P(Models, GgufVocabularyPeerTest,
                         ::testing::Values("qwen2_5", "qwen3", "llama3", "llama2", "mistral_nemo"));

}  // namespace
}  // namespace lathe
