#include <algorithm>

#include "common/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/data/encode.h"
#include "worker/data/row.h"
#include "worker/data/split.h"

// Rows with tools, calls and thoughts, through the template of Qwen2.5 and through the tiny
// Llama's, which knows nothing of them.

namespace lathe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kTinyLlama[] = "tests/data/tiny-llama/";

std::unique_ptr<TextModel> LoadWith(const std::string& chat_template) {
  const TempFolder folder = TempFolder::Make("tools").value();
  const nlohmann::json config = {{"eos_token", "<|im_end|>"}, {"chat_template", chat_template}};
  const std::string tokenizer = ReadFile(std::string(kTinyLlama) + "tokenizer.json").value();
  EXPECT_TRUE(WriteFileAtomically(folder.path() / "tokenizer.json", tokenizer).ok());
  EXPECT_TRUE(WriteFileAtomically(folder.path() / "tokenizer_config.json", config.dump()).ok());
  return TextModel::Load(folder.path()).value();
}

const TextModel& Qwen() {
  static const TextModel* const model =
      LoadWith(ReadFile("tests/data/public-templates/qwen2.5.jinja").value()).release();
  return *model;
}

const TextModel& Plain() {
  static const TextModel* const model = TextModel::Load(kTinyLlama)->release();
  return *model;
}

// What a call of the tool f has as arguments.
std::string RowJson(const std::string& arguments, const std::string& content = "null") {
  return R"({"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"messages":[)"
         R"({"role":"user","content":"q"},{"role":"assistant","content":)" +
         content + R"(,"tool_calls":[{"id":"1","function":{"name":"f","arguments":)" + arguments +
         R"(}}]},{"role":"tool","tool_call_id":"1","content":"7"},)"
         R"({"role":"assistant","content":"a"}]})";
}

struct Encoded {
  EncodedRow row;
  Findings findings;
};

Encoded Encode(const TextModel& model, const std::string& json) {
  const ParsedRow parsed = ParseRow(json);
  EXPECT_TRUE(parsed.row.has_value()) << parsed.findings.list()[0].reason;
  Encoded encoded;
  encoded.row = *EncodeRow(model, parsed.row->conversation, {}, TooLong::kError, encoded.findings,
                           parsed.row->tools);
  return encoded;
}

std::string TrainedText(const TextModel& model, const EncodedRow& row) {
  std::string text;
  for (size_t i = 0; i < row.ids.size(); ++i) {
    if (row.trained[i] == 1) text += model.TokenText(row.ids[i]);
  }
  return text;
}

std::vector<std::string> NamesOf(const Findings& findings) {
  std::vector<std::string> names;
  for (const Finding& finding : findings.list())
    names.push_back(std::string(ProblemName(finding.code)));
  return names;
}

constexpr char kTrained[] =
    "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": [2]}}\n</tool_call><|im_end|>"
    "a<|im_end|>";

TEST(ToolEncode, TrainsCallsAndAnswersButNotWhatToolsSay) {
  const Encoded encoded = Encode(Qwen(), RowJson(R"({"b":1,"a":[2]})"));
  EXPECT_THAT(encoded.findings.list(), IsEmpty());
  EXPECT_EQ(TrainedText(Qwen(), encoded.row), kTrained);
}

TEST(ToolEncode, ArgumentsAsJsonTextAreTheSameRow) {
  const Encoded object = Encode(Qwen(), RowJson(R"({"b":1,"a":[2]})"));
  const Encoded text = Encode(Qwen(), RowJson(R"("{\"b\": 1, \"a\": [2]}")"));
  EXPECT_EQ(TrainedText(Qwen(), text.row), kTrained);
  EXPECT_EQ(text.row.ids, object.row.ids);
}

TEST(ToolEncode, ATemplateThatWantsTextGetsTheTextOfPython) {
  const auto model = LoadWith(
      "{% for m in messages %}{{ m.role + ':' }}{% for c in m.tool_calls or [] %}"
      "{{ c.function.name + '(' + c.function.arguments + ')' }}{% endfor %}"
      "{{ m.content or '' }}{{ eos_token }}{% endfor %}");
  EXPECT_TRUE(model->traits().takes_text_arguments);
  const std::string trained = "f({\"b\": 1, \"a\": [2]})<|im_end|>a<|im_end|>";
  EXPECT_EQ(TrainedText(*model, Encode(*model, RowJson(R"({"b":1,"a":[2]})")).row), trained);
  const Encoded as_written = Encode(*model, RowJson(R"("{\"b\":1}")"));
  EXPECT_THAT(TrainedText(*model, as_written.row), HasSubstr("f({\"b\":1})"));
}

TEST(ToolEncode, EveryTokenHasAReason) {
  const std::string json = RowJson("{}", "\"Let me see.\"");
  const Encoded encoded = Encode(Qwen(), json);
  std::vector<std::string> order;
  for (size_t i = 0; i < encoded.row.ids.size(); ++i) {
    const std::string reason(TokenReason(encoded.row, ParseRow(json).row->conversation, i));
    if (order.empty() || order.back() != reason) order.push_back(reason);
  }
  EXPECT_THAT(order, ElementsAre("template", "tools", "template", "user", "template", "assistant",
                                 "template", "assistant", "template", "tool", "template",
                                 "assistant", "template"));
}

TEST(ToolEncode, APromptIsWhatTheRowHasBeforeTheAnswer) {
  const ParsedRow parsed = ParseRow(RowJson("\"{}\""));
  const EncodedRow row = Encode(Qwen(), RowJson("\"{}\"")).row;
  const Conversation fitted = WithFittingArguments(Qwen().traits(), parsed.row->conversation);
  for (const int answer : {1, 3}) {
    const Conversation before(fitted.begin(), fitted.begin() + answer);
    const auto prompt = Qwen().Render(before, /*generation_prompt=*/true, parsed.row->tools);
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    ASSERT_LT(prompt->size(), row.ids.size());
    for (size_t i = 0; i < prompt->size(); ++i) EXPECT_EQ((*prompt)[i].id, row.ids[i]) << i;
    EXPECT_EQ(row.trained[prompt->size()], 1);
  }
}

TEST(ToolEncode, WhatTheTemplateDoesNotShowIsAWarning) {
  const Encoded encoded = Encode(Plain(), RowJson("{}", "\"Let me see.\""));
  EXPECT_FALSE(encoded.findings.refused());
  EXPECT_THAT(NamesOf(encoded.findings), ElementsAre("tools_ignored", "tools_ignored"));
  EXPECT_THAT(encoded.findings.list()[0].reason, HasSubstr("has tools, which"));
  EXPECT_THAT(encoded.findings.list()[1].reason, HasSubstr("has tool_calls, which"));
  const Encoded thought = Encode(
      Plain(), R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a",)"
               R"("reasoning_content":"t"}]})");
  EXPECT_THAT(NamesOf(thought.findings), ElementsAre("thought_ignored"));
}

TEST(ToolEncode, AnAnswerOfNothingButLostCallsIsRefused) {
  const Encoded encoded = Encode(Plain(), RowJson("{}", "\"\""));
  ASSERT_TRUE(encoded.findings.refused());
  EXPECT_EQ(ProblemName(encoded.findings.first_error().code), "empty_answer");
}

TEST(ToolEncode, RowsWithOtherCallsOrToolsAreNoDuplicates) {
  const auto key = [](const std::string& json) {
    const ParsedRow parsed = ParseRow(json);
    return ContentKeyOf(parsed.row->conversation, parsed.row->tools);
  };
  EXPECT_EQ(key(RowJson("{}")), key(RowJson("{ }")));
  EXPECT_NE(key(RowJson("{}")), key(RowJson(R"({"a":1})")));
  const std::string plain = R"("messages":[{"role":"user","content":"q"},)"
                            R"({"role":"assistant","content":"a"}]})";
  EXPECT_NE(key("{" + plain), key(R"({"tools":[{"name":"f"}],)" + plain));
}

}  // namespace
}  // namespace lathe
