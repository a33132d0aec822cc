#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "tests/worker/text/text_fixture.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

class TokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto model = TextModel::Load(kTinyLlama);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    goldens_ = Json::parse(ReadTestFile("tests/data/goldens/tokens.json"));
  }

  std::unique_ptr<TextModel> model_;
  Json goldens_;
};

TEST_F(TokenizerTest, GivesTheIdsOfTransformers) {
  ASSERT_GE(goldens_["texts"].size(), 30u);
  for (const Json& golden : goldens_["texts"]) {
    const std::string text = golden["text"];
    const auto ids = model_->Encode(text, /*special=*/true);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, golden["ids"].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(model_->Decode(*ids), golden["decoded"]) << text;
    const auto plain = model_->Encode(text, /*special=*/false);
    ASSERT_TRUE(plain.ok()) << plain.status();
    EXPECT_EQ(*plain, golden["ids_plain"].get<std::vector<int32_t>>()) << text;
  }
}

TEST_F(TokenizerTest, KeepsSpecialStringsAsTextOnRequest) {
  const int32_t end = model_->TokenId("<|im_end|>");
  ASSERT_GE(end, 0);
  EXPECT_THAT(*model_->Encode("a<|im_end|>b", true), ::testing::Contains(end));
  const auto plain = *model_->Encode("a<|im_end|>b", false);
  EXPECT_THAT(plain, ::testing::Not(::testing::Contains(end)));
  EXPECT_EQ(model_->Decode(plain), "a<|im_end|>b");
}

TEST_F(TokenizerTest, RefusesTextThatIsNotUtf8) {
  const auto ids = model_->Encode("abc\xff", false);
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ids.status().message()), HasSubstr("byte 3 is not valid UTF-8"));
}

TEST_F(TokenizerTest, KnowsItsVocabulary) {
  EXPECT_EQ(model_->vocabulary_size(), 384);
  EXPECT_EQ(model_->TokenId("<|im_start|>"), 1);
  EXPECT_EQ(model_->TokenId("no such token"), -1);
  EXPECT_EQ(model_->TokenText(1), "<|im_start|>");
  EXPECT_EQ(model_->TokenText(-1), "");
  EXPECT_EQ(model_->TokenText(100000), "");
  EXPECT_EQ(model_->Decode({-5, 1 << 30, 1}), "");
}

TEST_F(TokenizerTest, ShowsPartOfACharacterAsReplacement) {
  const auto ids = *model_->Encode("\xF0\x9F\xA6\x99", false);
  ASSERT_GT(ids.size(), 1u);
  EXPECT_EQ(model_->TokenText(ids[0]), "\xEF\xBF\xBD");
}

TEST_F(TokenizerTest, StreamsWholeCharactersOnly) {
  for (const Json& golden : goldens_["texts"]) {
    const std::vector<int32_t> ids = golden["ids"];
    StreamDecoder decoder(*model_);
    std::string text;
    for (const int32_t id : ids) {
      const std::string piece = decoder.Push(id);
      EXPECT_FALSE(absl::StrContains(piece, "\xEF\xBF\xBD")) << golden["text"];
      text += piece;
    }
    EXPECT_EQ(text + decoder.Finish(), golden["decoded"]);
  }
}

TEST_F(TokenizerTest, StreamsOnAfterBytesThatAreNoText) {
  const int32_t broken = (*model_->Encode("\xF0\x9F\xA6\x99", false))[0];
  const auto word = *model_->Encode("Hello", false);
  StreamDecoder decoder(*model_);
  std::string text;
  for (int i = 0; i < 9; ++i) text += decoder.Push(broken);
  EXPECT_NE(text, "");  // It must not wait for ever.
  for (const int32_t id : word) text += decoder.Push(id);
  text += decoder.Finish();
  EXPECT_TRUE(absl::EndsWith(text, "Hello")) << text;
}

// As Llama 2's: a blank before the first word, byte fallback.
constexpr char kSentencePiece[] = R"({
  "version": "1.0", "truncation": {"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
  "padding": null,
  "added_tokens": [
    {"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
  "normalizer": {"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "\u2581"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
  "pre_tokenizer": null, "post_processor": null,
  "decoder": {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
    {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
  "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
    "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
    "vocab": {"<unk>": 0, "</s>": 1, "\u2581": 2, "a": 3, "b": 4, ":": 5, "\u2581a": 6, "\u2581b": 7},
    "merges": [["\u2581", "a"], ["\u2581", "b"]]}
})";
constexpr char kSentencePieceConfig[] = R"({"eos_token": "</s>", "chat_template":
  "{% for m in messages %}{{ 'a:' + m.content + eos_token }}{% endfor %}"})";

TEST(SentencePieceTest, PutsNoBlankInTheMiddleOfALine) {
  const auto model = LoadTextModel(kSentencePiece, kSentencePieceConfig);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(*(*model)->Encode("ab", false), (std::vector<int32_t>{6, 4}));
  const auto tokens = (*model)->Render({{Role::kUser, "b a"}, {Role::kAssistant, "b"}}, false);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  // A blank at the start and after </s>, as in transformers; none between "a:" and the content.
  EXPECT_EQ(IdsOf(*tokens), (std::vector<int32_t>{6, 5, 4, 6, 1, 6, 5, 4, 1}));
}

TEST(SentencePieceTest, KeepsBlanksOfSingleTokensAndStreams) {
  const auto model = LoadTextModel(kSentencePiece, kSentencePieceConfig);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->TokenText(6), " a");
  EXPECT_EQ((*model)->TokenText(2), " ");
  EXPECT_EQ((*model)->TokenText(4), "b");
  StreamDecoder decoder(**model);
  EXPECT_EQ(decoder.Push(6), "a");
  EXPECT_EQ(decoder.Push(7), " b");
  EXPECT_EQ(decoder.Push(1), "");
  EXPECT_EQ(decoder.Push(4), "b");
}

struct BadFile {
  const char* name;
  const char* tokenizer_json;
  const char* config_json;
  const char* fault;
};

class BadFileTest : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadFileTest, IsRefusedInOneLineThatNamesIt) {
  const auto model = LoadTextModel(GetParam().tokenizer_json, GetParam().config_json);
  ASSERT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument) << model.status();
  const std::string message(model.status().message());
  EXPECT_THAT(message, HasSubstr(GetParam().fault));
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

constexpr char kEmptyVocabulary[] = R"({"version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
  "decoder": null, "model": {"type": "BPE", "dropout": null, "unk_token": null,
  "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
  "byte_fallback": false, "vocab": {}, "merges": []}})";
constexpr char kHugeId[] = R"({"version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
  "decoder": null, "model": {"type": "BPE", "dropout": null, "unk_token": null,
  "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
  "byte_fallback": false, "vocab": {"a": 4294967295}, "merges": []}})";

INSTANTIATE_TEST_SUITE_P(
    Files, BadFileTest,
    ::testing::Values(
        BadFile{"NotJson", "{", "", "tokenizer.json: is not JSON"},
        BadFile{"NotATokenizer", "{}", "", "tokenizer.json: is not a tokenizer"},
        BadFile{"NoVocabulary", kEmptyVocabulary, "", "tokenizer.json: has an empty vocabulary"},
        BadFile{"HugeId", kHugeId, "", "tokenizer.json: has token id 4294967295; allowed are"},
        BadFile{"ConfigIsNoObject", kSentencePiece, "[]", "tokenizer_config.json: is not a JSON"},
        BadFile{"UnknownEos", kSentencePiece, R"({"eos_token": "<e>"})", "eos_token is '<e>'"},
        BadFile{"TemplateIsNumber", kSentencePiece, R"({"chat_template": 3})",
                "chat_template: is number"},
        BadFile{"NoDefaultTemplate", kSentencePiece, R"({"chat_template": []})", "'default'"},
        BadFile{"TemplateDoesNotParse", kSentencePiece, R"({"chat_template": "x\n{% if %}"})",
                "tokenizer_config.json: chat template, line 2"}),
    [](const auto& bad) { return bad.param.name; });

TEST(TextModelLoadTest, NamesAMissingTokenizer) {
  const auto model = TextModel::Load("tests/data/no-such-model");
  EXPECT_EQ(model.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("tokenizer.json"));
}

TEST(TextModelLoadTest, TakesTheDefaultOfSeveralTemplates) {
  const auto model = LoadTextModel(kSentencePiece, R"({"chat_template": [
    {"name": "tools", "template": "x"}, {"name": "default", "template": "a"}]})");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(*(*model)->RenderText({{Role::kUser, "b"}}, false), "a");
  EXPECT_TRUE((*model)->stop_ids().empty());
}

TEST(TextModelLoadTest, WithoutTemplateTokenisesButDoesNotRender) {
  const auto model = LoadTextModel(kSentencePiece, "");
  ASSERT_TRUE(model.ok()) << model.status();
  const auto tokens = (*model)->Render({{Role::kUser, "b"}}, false);
  EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(tokens.status().message()), HasSubstr("the model has none"));
}

// One token, and what a file says of the text before it.
std::string TokenizerThat(const std::string& parts, const std::string& model = "") {
  return R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "post_processor": null,)" +
         parts + R"("model": {)" + model + R"("type": "BPE", "vocab": {"a": 0}, "merges": []}})";
}

// A few replacements in a row: a kilobyte would become a terabyte.
TEST(HostileTokenizerTest, ATextThatGrowsWithoutBoundIsRefused) {
  std::string replacements;
  for (int i = 0; i < 40; ++i) {
    replacements += std::string(i > 0 ? "," : "") +
                    R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"})";
  }
  for (const char* part : {"normalizer", "decoder"}) {
    const std::string other = part == std::string("decoder") ? "normalizer" : "decoder";
    const std::string list = part == std::string("decoder") ? "decoders" : "normalizers";
    const auto model = LoadTextModel(
        TokenizerThat("\"" + std::string(part) + R"(": {"type": "Sequence", ")" + list + "\": [" +
                      replacements + "]}, \"" + other + R"(": null, "pre_tokenizer": null, )"),
        "");
    ASSERT_TRUE(model.ok()) << model.status();
    const auto ids = (*model)->Encode(std::string(1000, 'a'), false);
    if (other == "decoder") {
      EXPECT_THAT(std::string(ids.status().message()), HasSubstr("1099511627776 times as many"));
    } else {
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ((*model)->Decode(*ids), "");
      EXPECT_EQ((*model)->TokenText(0), "");
    }
  }
}

// Four bytes would become 64 million, and two gigabytes of memory in the library.
TEST(HostileTokenizerTest, AShortTextThatGrowsMillionfoldIsRefused) {
  std::string replacements;
  for (int i = 0; i < 24; ++i) {
    replacements += std::string(i > 0 ? "," : "") +
                    R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"})";
  }
  const auto model =
      LoadTextModel(TokenizerThat(R"("normalizer": {"type": "Sequence", "normalizers": [)" +
                                  replacements + R"(]}, "pre_tokenizer": null, "decoder": null, )"),
                    "");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(std::string((*model)->Encode("aaaa", false).status().message()),
              HasSubstr("16777216 times as many"));
}

// Its first four bytes, little-endian, are the size of the trie: 0x9E000000.
TEST(HostileTokenizerTest, ACharsmapThatSaysToBeLargerThanItIsIsRefused) {
  const auto model =
      LoadTextModel(TokenizerThat(R"("normalizer": {"type": "Precompiled", "precompiled_charsmap":
          "AAAAngAAAAA="}, "pre_tokenizer": null, "decoder": null, )"),
                    "");
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(model.status().message()),
      HasSubstr("precompiled_charsmap has 8 bytes; its trie alone is said to have 2650800128"));
}

TEST(HostileTokenizerTest, AModelThatChoosesByChanceIsRefused) {
  const auto model =
      LoadTextModel(TokenizerThat(R"("normalizer": null, "pre_tokenizer": null, "decoder": null, )",
                                  R"("dropout": 0.1, )"),
                    "");
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("model.dropout 0.1; allowed is"));
}

TEST(HostileTokenizerTest, AConfigNestedDeeplyIsRefused) {
  const std::string deep = R"({"chat_template": [{"name": )" + std::string(1000000, '[') +
                           std::string(1000000, ']') + "}]}";
  EXPECT_THAT(std::string(LoadTextModel(kSentencePiece, deep).status().message()),
              HasSubstr("tokenizer_config.json: is nested deeper than the 64 levels allowed"));
}

}  // namespace
}  // namespace lathe
