#include "worker/data/row.h"

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lathe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> Turns(const ParsedRow& parsed) {
  std::vector<std::string> out;
  if (!parsed.row) return {"refused: " + parsed.findings.first_error().reason};
  for (const Message& message : parsed.row->conversation) {
    const char role = "suat"[static_cast<int>(message.role)];
    const bool skipped = message.role == Role::kAssistant && !message.trained;
    out.push_back(absl::StrCat(std::string(1, role), skipped ? "0:" : ":", message.content));
  }
  return out;
}

// Name of the first error, or "".
std::string Code(absl::string_view json) {
  const ParsedRow parsed = ParseRow(json);
  EXPECT_EQ(parsed.row.has_value(), !parsed.findings.refused()) << json;
  return parsed.findings.refused() ? std::string(ProblemName(parsed.findings.first_error().code))
                                   : "";
}

std::vector<std::string> Names(const ParsedRow& parsed) {
  std::vector<std::string> names;
  for (const Finding& finding : parsed.findings.list())
    names.push_back(std::string(ProblemName(finding.code)));
  return names;
}

TEST(AlpacaRow, InstructionAndOutputAreAQuestionAndAnAnswer) {
  const ParsedRow parsed = ParseRow(R"({"instruction":"q","output":"a"})");
  EXPECT_THAT(Turns(parsed), ElementsAre("u:q", "a:a"));
  EXPECT_EQ(parsed.row->form, RowForm::kAlpaca);
  EXPECT_EQ(parsed.row->split, RowSplit::kUnset);
  EXPECT_THAT(parsed.findings.list(), IsEmpty());
}

TEST(AlpacaRow, InputFollowsTheInstructionOnALineOfItsOwn) {
  EXPECT_THAT(Turns(ParseRow(R"({"instruction":"q","input":"i","output":"a"})")),
              ElementsAre("u:q\ni", "a:a"));
  EXPECT_THAT(Turns(ParseRow(R"({"instruction":"q","input":"","output":"a"})")),
              ElementsAre("u:q", "a:a"));
  EXPECT_THAT(Turns(ParseRow(R"({"instruction":"","input":"i","output":"a"})")),
              ElementsAre("u:i", "a:a"));
}

TEST(AlpacaRow, SystemAndHistoryComeFirst) {
  const ParsedRow parsed = ParseRow(
      R"({"instruction":"q3","output":"a3","system":"s","history":[["q1","a1"],["q2","a2"]],
          "task":"chat","split":"validation"})");
  EXPECT_THAT(Turns(parsed), ElementsAre("s:s", "u:q1", "a:a1", "u:q2", "a:a2", "u:q3", "a:a3"));
  EXPECT_EQ(parsed.row->task, "chat");
  EXPECT_EQ(parsed.row->split, RowSplit::kValidation);
}

TEST(AlpacaRow, NullMeansAbsent) {
  EXPECT_THAT(Turns(ParseRow(R"({"instruction":"q","input":null,"output":"a","system":null,
                                 "history":null,"task":null,"split":null})")),
              ElementsAre("u:q", "a:a"));
}

TEST(AlpacaRow, FaultsAreNamed) {
  EXPECT_EQ(Code(R"({"instruction":"q"})"), "missing_field");
  EXPECT_EQ(Code(R"({"output":"a"})"), "missing_field");
  EXPECT_EQ(Code(R"({"instruction":"q","output":""})"), "empty_answer");
  EXPECT_EQ(Code(R"({"instruction":"q","output":" \n"})"), "empty_answer");
  EXPECT_EQ(Code(R"({"instruction":"q","output":null})"), "empty_answer");
  EXPECT_EQ(Code(R"({"instruction":" ","output":"a"})"), "empty_message");
  EXPECT_EQ(Code(R"({"instruction":"q","output":7})"), "wrong_type");
  EXPECT_EQ(Code(R"({"instruction":["q"],"output":"a"})"), "wrong_type");
  EXPECT_EQ(Code(R"({"instruction":"q","output":"a","history":"x"})"), "bad_history");
  EXPECT_EQ(Code(R"({"instruction":"q","output":"a","history":[["x"]]})"), "bad_history");
  EXPECT_EQ(Code(R"({"instruction":"q","output":"a","history":[["x",1]]})"), "bad_history");
  EXPECT_EQ(Code(R"({"instruction":"q","output":"a","history":[["x",""]]})"), "empty_answer");
}

TEST(MessagesRow, TurnsKeepTheirWeight) {
  const ParsedRow parsed = ParseRow(
      R"({"messages":[{"role":"system","content":"s"},{"role":"user","content":"q1"},
          {"role":"assistant","content":"a1","weight":0},{"role":"user","content":"q2"},
          {"role":"assistant","content":"a2","weight":1.0}],"split":"train"})");
  EXPECT_THAT(Turns(parsed), ElementsAre("s:s", "u:q1", "a0:a1", "u:q2", "a:a2"));
  EXPECT_EQ(parsed.row->form, RowForm::kMessages);
  EXPECT_EQ(parsed.row->split, RowSplit::kTraining);
}

TEST(MessagesRow, FaultsAreNamed) {
  const auto code = [](const std::string& list) { return Code("{\"messages\":" + list + "}"); };
  const std::string user = R"({"role":"user","content":"q"})";
  const std::string answer = R"({"role":"assistant","content":"a"})";
  const std::string system = R"({"role":"system","content":"s"})";
  EXPECT_EQ(code("[" + user + "," + answer + "]"), "");
  EXPECT_EQ(code("null"), "wrong_type");
  EXPECT_EQ(code("{}"), "wrong_type");
  EXPECT_EQ(code("[7]"), "wrong_type");
  EXPECT_EQ(code("[]"), "bad_role_order");
  EXPECT_EQ(code("[" + system + "]"), "bad_role_order");
  EXPECT_EQ(code("[" + user + "]"), "bad_role_order");
  EXPECT_EQ(code("[" + answer + "]"), "bad_role_order");
  EXPECT_EQ(code("[" + user + "," + user + "," + answer + "]"), "bad_role_order");
  EXPECT_EQ(code("[" + user + "," + answer + "," + answer + "]"), "bad_role_order");
  EXPECT_EQ(code("[" + user + "," + system + "," + answer + "]"), "bad_role_order");
  EXPECT_EQ(code("[" + system + "," + system + "," + user + "," + answer + "]"), "bad_role_order");
  EXPECT_EQ(code(R"([{"role":"function","content":"q"}])"), "unknown_role");
  EXPECT_EQ(code(R"([{"role":3,"content":"q"}])"), "wrong_type");
  EXPECT_EQ(code(R"([{"content":"q"}])"), "missing_field");
  EXPECT_EQ(code(R"([{"role":"user"}])"), "missing_field");
  EXPECT_EQ(code(R"([{"role":"user","content":null}])"), "empty_message");
  EXPECT_EQ(code(R"([{"role":"user","content":[{"type":"text"}]}])"), "wrong_type");
  EXPECT_EQ(code("[" + user + R"(,{"role":"assistant","content":""}])"), "empty_answer");
}

TEST(MessagesRow, WeightIsZeroOrOne) {
  const auto code = [](const std::string& weight) {
    return Code(R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"},
      {"role":"user","content":"q"},{"role":"assistant","content":"a","weight":)" +
                weight + "}]}");
  };
  EXPECT_EQ(code("0"), "");
  EXPECT_EQ(code("1"), "");
  for (const char* bad : {"2", "-1", "0.5", "true", "\"1\"", "[]"})
    EXPECT_EQ(code(bad), "bad_weight");
}

TEST(MessagesRow, AWeightOfOneOnAUserMessageIsAWarning) {
  const ParsedRow parsed = ParseRow(
      R"({"messages":[{"role":"user","content":"q","weight":1},{"role":"assistant","content":"a"}]})");
  EXPECT_TRUE(parsed.row.has_value());
  EXPECT_THAT(Names(parsed), ElementsAre("weight_ignored"));
}

TEST(MessagesRow, WithoutATrainedAnswerItIsRefused) {
  EXPECT_EQ(Code(R"({"messages":[{"role":"user","content":"q"},
                     {"role":"assistant","content":"a","weight":0}]})"),
            "no_trained_token");
}

TEST(MessagesRow, HasAtMost1024Messages) {
  std::string list;
  for (int i = 0; i < 513; ++i) {
    list += R"({"role":"user","content":"q"},{"role":"assistant","content":"a"},)";
  }
  list.pop_back();
  EXPECT_EQ(Code("{\"messages\":[" + list + "]}"), "too_many_messages");
}

// A row of a question, what stands for %s, and an answer.
std::string ToolRow(const std::string& between, const std::string& tools = R"("tools":[
    {"type":"function","function":{"name":"f","description":"d","parameters":{"z":1,"a":2}}},
    {"type":"function","function":{"name":"g"}}],)") {
  return absl::StrCat("{", tools, R"("messages":[{"role":"user","content":"q"},)", between,
                      R"({"role":"assistant","content":"a"}]})");
}

std::string Calls(const std::string& function, const std::string& more = "") {
  return absl::StrCat(
      R"({"role":"assistant","tool_calls":[{"id":"1","type":"function","function":)", function, "}",
      more, "]},");
}

constexpr char kAnswer[] = R"({"role":"tool","tool_call_id":"1","content":"7"},)";

TEST(ToolRow, KeepsToolsAndCallsAsATemplateSeesThem) {
  const ParsedRow parsed =
      ParseRow(ToolRow(Calls(R"({"name":"f","arguments":{"y":1,"b":[2.5]}})") + kAnswer));
  EXPECT_THAT(Turns(parsed), ElementsAre("u:q", "a:", "t:7", "a:a"));
  EXPECT_THAT(parsed.findings.list(), IsEmpty());
  EXPECT_EQ(parsed.row->tools,
            R"([{"type":"function","function":{"name":"f","description":"d","parameters":)"
            R"({"z":1,"a":2}}},{"type":"function","function":{"name":"g"}}])");
  EXPECT_FALSE(parsed.row->conversation[1].has_content);
  EXPECT_EQ(parsed.row->conversation[1].fields,
            R"({"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":)"
            R"({"y":1,"b":[2.5]}}}]})");
  EXPECT_EQ(parsed.row->conversation[2].fields, R"({"tool_call_id":"1"})");
  EXPECT_EQ(parsed.row->conversation[3].fields, "");
}

TEST(ToolRow, ACallMayBeTheLastMessage) {
  const ParsedRow parsed = ParseRow(
      R"({"tools":[{"name":"f"}],"messages":[{"role":"user","content":"q"},{"role":"assistant",)"
      R"("content":null,"tool_calls":[{"function":{"name":"f","arguments":"{\"b\": 1}"}}]}]})");
  EXPECT_THAT(Turns(parsed), ElementsAre("u:q", "a:"));
}

TEST(ToolRow, ThoughtsAreKeptByTheirName) {
  const ParsedRow parsed =
      ParseRow(R"({"messages":[{"role":"user","content":"q","name":"Ann"},{"role":"assistant",)"
               R"("content":"a","reasoning_content":"t"}]})");
  ASSERT_TRUE(parsed.row.has_value());
  EXPECT_EQ(parsed.row->conversation[0].fields, R"({"name":"Ann"})");
  EXPECT_EQ(parsed.row->conversation[1].fields, R"({"reasoning_content":"t"})");
  EXPECT_EQ(Code(R"({"messages":[{"role":"user","content":"q"},{"role":"assistant",)"
                 R"("content":"a","reasoning_content":["t"]}]})"),
            "wrong_type");
}

TEST(ToolRow, BadToolsAreNamed) {
  const auto code = [](const std::string& tools) {
    return Code(ToolRow("", absl::StrCat("\"tools\":", tools, ",")));
  };
  EXPECT_EQ(code("[]"), "");
  EXPECT_EQ(code("null"), "");
  EXPECT_EQ(code(R"([{"name":"f"}])"), "");
  for (const char* bad :
       {"{}", "\"f\"", "[7]", "[{}]", R"([{"name":""}])", R"([{"name":7}])", R"([{"function":7}])",
        R"([{"function":{}}])", R"([{"name":"f"},{"name":"f"}])",
        R"([{"type":"x","function":{"name":"f"}}])", R"([{"name":"f","parameters":[]}])",
        R"([{"name":"f","x":1e300}])"}) {
    EXPECT_EQ(code(bad), "bad_tools") << bad;
  }
  std::string keys = R"("name":"f")";
  for (int i = 0; i < 600; ++i) absl::StrAppend(&keys, ",\"k", i, "\":0");
  EXPECT_EQ(code("[{" + keys + "}]"), "bad_tools");
}

TEST(ToolRow, BadCallsAreNamed) {
  const auto code = [](const std::string& function) {
    return Code(ToolRow(Calls(function) + kAnswer));
  };
  EXPECT_EQ(code(R"({"name":"f","arguments":"{}"})"), "");
  EXPECT_EQ(code(R"({"name":"h","arguments":{}})"), "unknown_tool");
  for (const char* bad : {"7", "{}", R"({"name":"f"})", R"({"name":"f","arguments":"no"})",
                          R"({"name":"f","arguments":"[1]"})", R"({"name":"f","arguments":[1]})",
                          R"({"name":"f","arguments":{"a":1e300}})", R"({"arguments":{}})"}) {
    EXPECT_EQ(code(bad), "bad_tool_call") << bad;
  }
  const std::string deep(100, '[');
  EXPECT_EQ(code(absl::StrCat(R"({"name":"f","arguments":"{\"a\":)", deep, "\"}")),
            "bad_tool_call");
  EXPECT_EQ(Code(ToolRow(R"({"role":"assistant","content":"x","tool_calls":[]},)")),
            "bad_tool_call");
  EXPECT_EQ(Code(ToolRow(Calls(R"({"name":"f","arguments":{}})") + kAnswer, "")), "unknown_tool");
}

TEST(ToolRow, AnswersFollowTheirCalls) {
  const std::string call = Calls(R"({"name":"f","arguments":{}})");
  const std::string two = Calls(R"({"name":"f","arguments":{}})",
                                R"(,{"id":"2","function":{"name":"g","arguments":{}}})");
  const std::string second = R"({"role":"tool","tool_call_id":"2","content":""},)";
  EXPECT_EQ(Code(ToolRow(two + kAnswer + second)), "");
  EXPECT_EQ(Code(ToolRow(two + second + kAnswer)), "");
  EXPECT_EQ(Code(ToolRow(call + kAnswer + call + kAnswer)), "");
  EXPECT_EQ(Code(ToolRow(kAnswer)), "tool_without_call");
  EXPECT_EQ(Code(ToolRow(call + kAnswer + kAnswer)), "tool_without_call");
  EXPECT_EQ(Code(ToolRow(two + kAnswer + kAnswer)), "tool_without_call");
  EXPECT_EQ(Code(ToolRow(call + second)), "tool_without_call");
  EXPECT_EQ(Code(ToolRow(call)), "bad_role_order");
  EXPECT_EQ(Code(ToolRow(call + R"({"role":"tool"},)")), "missing_field");
}

TEST(ToolRow, AFieldOfAMessageThatNothingReadsIsAWarning) {
  const ParsedRow parsed = ParseRow(
      R"({"messages":[{"role":"user","content":"q","audio":1},{"role":"assistant","content":"a"}]})");
  EXPECT_THAT(Names(parsed), ElementsAre("unknown_field"));
  EXPECT_EQ(parsed.findings.list()[0].reason, "a message's 'audio' is not used");
}

TEST(AnyRow, FormsAreToldApart) {
  EXPECT_EQ(Code(R"({"prompt":"q","completion":"a"})"), "unknown_form");
  EXPECT_EQ(Code("{}"), "unknown_form");
  EXPECT_EQ(Code(R"({"messages":[],"instruction":"q"})"), "ambiguous_form");
}

TEST(AnyRow, SplitIsTrainOrValidation) {
  const auto code = [](const std::string& split) {
    return Code(R"({"instruction":"q","output":"a","split":)" + split + "}");
  };
  EXPECT_EQ(code("\"train\""), "");
  for (const char* bad : {"\"heldout\"", "\"test\"", "\"\"", "1", "{}"})
    EXPECT_EQ(code(bad), "bad_split");
}

TEST(AnyRow, TaskIsAShortLine) {
  const auto code = [](const std::string& task) {
    return Code(R"({"instruction":"q","output":"a","task":)" + task + "}");
  };
  EXPECT_EQ(code("\"sorting\""), "");
  EXPECT_EQ(code("7"), "wrong_type");
  EXPECT_EQ(code("\"a\\nb\""), "bad_task");
  EXPECT_EQ(code("\"" + std::string(129, 'x') + "\""), "bad_task");
}

TEST(AnyRow, TextThatIsNoJsonIsNamedWithItsByte) {
  for (const char* bad : {"", "{", "{\"a\":}", "nul", "{} {}", "{\"a\":1,}", "{'a':1}", "[1",
                          "{\"a\":\"\\ud800\"}", "{\"a\":\"\t\"}", "{\"a\":01}"}) {
    EXPECT_EQ(Code(bad), "bad_json") << bad;
  }
  EXPECT_THAT(ParseRow("{\"a\":}").findings.first_error().reason, HasSubstr("byte 6"));
}

TEST(AnyRow, WhatIsNoObjectIsNamed) {
  for (const char* bad : {"7", "[]", "null", "\"x\"", "true"})
    EXPECT_EQ(Code(bad), "not_an_object");
}

TEST(AnyRow, InvalidUtf8IsNamedWithItsByte) {
  const ParsedRow parsed = ParseRow("{\"instruction\":\"a\xC3(\",\"output\":\"b\"}");
  ASSERT_FALSE(parsed.row.has_value());
  EXPECT_EQ(parsed.findings.first_error().code, ProblemCode::kBadUtf8);
  EXPECT_EQ(parsed.findings.first_error().reason, "byte 18 is 0xc3; must be UTF-8");
  for (const char* bad :
       {"\x80", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82", "\xFF"})
    EXPECT_EQ(Code(absl::StrCat("{\"instruction\":\"", bad, "\",\"output\":\"a\"}")), "bad_utf8");
}

TEST(AnyRow, TextOfAllLanguagesStaysAsItIs) {
  EXPECT_THAT(Turns(ParseRow("{\"instruction\":\"你好 é 😀\",\"output\":\"\\ud83d\\ude00\"}")),
              ElementsAre("u:你好 é 😀", "a:😀"));
}

TEST(AnyRow, DeepNestingIsRefusedBeforeItIsParsed) {
  const auto nested = [](size_t depth) {
    return absl::StrCat(R"({"instruction":"q","output":"a","x":)", std::string(depth, '['),
                        std::string(depth, ']'), "}");
  };
  EXPECT_EQ(Code(nested(63)), "");
  EXPECT_EQ(Code(nested(64)), "too_deep");
  EXPECT_EQ(Code(nested(5'000'000)), "too_deep");
  EXPECT_EQ(Code(R"({"instruction":"[[[[\"[[","output":"a"})"), "");
}

TEST(AnyRow, NulIsRefusedAndOtherControlCharactersAreAWarning) {
  EXPECT_EQ(Code(R"({"instruction":"q\u0000","output":"a"})"), "nul_character");
  EXPECT_EQ(Code(absl::string_view("{\"instruction\":\"q\0\",\"output\":\"a\"}", 34)), "bad_json");
  const ParsedRow parsed = ParseRow(R"({"instruction":"q\u001b","output":"a\t\r\n"})");
  EXPECT_TRUE(parsed.row.has_value());
  EXPECT_THAT(Names(parsed), ElementsAre("control_character"));
}

TEST(AnyRow, OfTwoEqualKeysTheLastOneCounts) {
  EXPECT_THAT(Turns(ParseRow(R"({"instruction":"q","output":"a","output":"b"})")),
              ElementsAre("u:q", "a:b"));
}

TEST(AnyRow, FieldsThatNothingReadsAreAWarning) {
  const ParsedRow parsed = ParseRow(R"({"instruction":"q","output":"a","ouput":"b"})");
  EXPECT_TRUE(parsed.row.has_value());
  ASSERT_THAT(Names(parsed), ElementsAre("unknown_field"));
  EXPECT_EQ(parsed.findings.list()[0].reason, "'ouput' is not used");
}

TEST(AnyRow, ReasonsAreOneLineOfValidText) {
  const ParsedRow parsed = ParseRow(
      absl::StrCat("{\"messages\":[{\"role\":\"a\\nb\\u0007", std::string(500, 'x'), "\"}]}"));
  const std::string reason = parsed.findings.first_error().reason;
  EXPECT_THAT(reason, HasSubstr("'a?b?xxx"));
  EXPECT_LT(reason.size(), 120U);
  EXPECT_EQ(reason.find('\n'), std::string::npos);
}

TEST(ProblemKinds, AreInTheOrderOfTheirCodesAndDocumented) {
  std::stringstream docs;
  docs << std::ifstream("docs/data.md").rdbuf();
  size_t index = 0;
  for (const ProblemKind& kind : ProblemKinds()) {
    EXPECT_EQ(static_cast<size_t>(kind.code), index++);
    EXPECT_THAT(docs.str(), HasSubstr(absl::StrCat("| `", kind.name, "` |")));
  }
}

TEST(HostileRow, ANumberThatDoesNotFitIsBadJson) {
  const ParsedRow parsed = ParseRow(R"({"instruction":"q","output":"a","x":1e999})");
  ASSERT_TRUE(parsed.findings.refused());
  EXPECT_THAT(parsed.findings.first_error().reason, HasSubstr("number overflow"));
  EXPECT_EQ(Code(R"({"instruction":"q","output":"a","x":-1e999})"), "bad_json");
}

TEST(HostileRow, ManyUnknownFieldsAreCountedAndNotListed) {
  std::string row = R"({"instruction":"q","output":"a")";
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&row, ",\"x", i, "\":0");
  const ParsedRow parsed = ParseRow(row + "}");
  ASSERT_EQ(parsed.findings.list().size(), 17U);
  EXPECT_EQ(parsed.findings.list().back().reason, "984 more fields are not used");
}

}  // namespace
}  // namespace lathe
