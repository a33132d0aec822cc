#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "tests/worker/text/text_fixture.h"

// Chat templates of public models: the text of transformers, and by hand what is trained.

namespace lathe {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kFolder[] = "tests/data/public-templates/";

Json ReadJson(absl::string_view name) {
  return Json::parse(ReadTestFile(absl::StrCat(kFolder, name)));
}

Role RoleOf(const std::string& name) {
  if (name == "system") return Role::kSystem;
  if (name == "user") return Role::kUser;
  return name == "tool" ? Role::kTool : Role::kAssistant;
}

Message ToMessage(const Json& json) {
  Message message{RoleOf(json["role"]), ""};
  Json fields = json;
  fields.erase("role");
  fields.erase("content");
  if (!fields.empty()) message.fields = fields.dump();
  message.has_content = !json["content"].is_null();
  if (message.has_content) message.content = json["content"];
  return message;
}

struct Case {
  Conversation conversation;
  std::string tools;
  bool generation_prompt = false;
};

Case ToCase(const Json& json) {
  Case one;
  for (const Json& message : json["messages"]) one.conversation.push_back(ToMessage(message));
  if (!json["tools"].is_null()) one.tools = json["tools"].dump();
  one.generation_prompt = json["generation_prompt"];
  return one;
}

// The template of a golden: committed, or where `scripts/setup --only peers` puts it; empty if it
// is not there.
std::string SourceOf(const std::string& name, const Json& golden) {
  if (!golden["licence"].is_null()) return ReadTestFile(absl::StrCat(kFolder, name, ".jinja"));
  const std::string file = golden["file"];
  const auto bytes = ReadPeerFile(file);
  if (!bytes.ok()) return "";
  if (!absl::EndsWith(file, ".json")) return *bytes;
  return Json::parse(*bytes)["chat_template"];
}

std::unique_ptr<TextModel> LoadGolden(const std::string& source, const Json& golden) {
  Json config = {{"chat_template", source}};
  std::vector<std::string> special;
  for (const char* key : {"bos_token", "eos_token"}) {
    if (golden[key] == "") continue;
    config[key] = golden[key];
    special.push_back(golden[key]);
  }
  auto model = LoadTextModel(TokenizerWith(special), config.dump());
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

// What the goldens say of a rendering: "!" for a refusal, else the begin of the text's hash.
std::string VerdictOf(const absl::StatusOr<std::string>& text) {
  return text.ok() ? Sha256Hex(*text).substr(0, 16) : "!";
}

// Returns how many texts were compared.
int CompareAll(const std::string& name, const Json& golden, const std::string& source) {
  const auto model = LoadGolden(source, golden);
  if (model == nullptr) return 0;
  const Json conversations = ReadJson("conversations.json");
  int num_texts = 0;
  for (size_t i = 0; i < conversations.size(); ++i) {
    const Case one = ToCase(conversations[i]);
    const auto text = model->RenderText(one.conversation, one.generation_prompt, one.tools);
    const std::string expected = golden["texts"][i];
    EXPECT_EQ(VerdictOf(text), expected.substr(0, expected[0] == '!' ? 1 : 16))
        << name << ", conversation " << i << ": "
        << (text.ok() ? *text : std::string(text.status().message()));
    if (!text.ok()) {
      EXPECT_THAT(std::string(text.status().message()), ::testing::HasSubstr(expected.substr(1)));
    }
    num_texts += text.ok() ? 1 : 0;
  }
  return num_texts;
}

TEST(PublicTemplateTest, CommittedTemplatesGiveTheTextOfTransformers) {
  int num_templates = 0;
  const Json goldens = ReadJson("goldens.json");
  for (const auto& [name, golden] : goldens.items()) {
    if (golden["licence"].is_null()) continue;
    EXPECT_GE(CompareAll(name, golden, SourceOf(name, golden)), 20) << name;
    ++num_templates;
  }
  EXPECT_GE(num_templates, 12);
}

TEST(PublicTemplateTest, TemplatesFromTheCacheGiveTheTextOfTransformers) {
  int num_missing = 0;
  const Json goldens = ReadJson("goldens.json");
  for (const auto& [name, golden] : goldens.items()) {
    if (!golden["licence"].is_null()) continue;
    const std::string source = SourceOf(name, golden);
    num_missing += source.empty() ? 1 : 0;
    if (source.empty()) continue;
    EXPECT_EQ(Sha256Hex(source), golden["sha256"]) << name;
    CompareAll(name, golden, source);
  }
  if (num_missing > 0) {
    GTEST_SKIP() << num_missing
                 << " templates are not in the cache; run scripts/setup --only peers";
  }
}

// Three conversations, and by hand what a model learns of each: what it has to write itself after
// the prompt that the template gives it.
struct Trained {
  absl::string_view name;
  std::string turns;
  std::string tools;
  std::string thinking;
  // With the thoughts in a field of their own.
  std::string reasoning;
};

Conversation Turns() {
  return {{Role::kSystem, "Be brief."},
          {Role::kUser, "One?"},
          {Role::kAssistant, "Yes."},
          {Role::kUser, "Two?"},
          {Role::kAssistant, "No."}};
}

Conversation Tools() {
  Message call{Role::kAssistant, ""};
  call.fields = R"({"tool_calls": [{"type": "function", "id": "call00001", "function":)"
                R"( {"name": "get_weather", "arguments": {"city": "Oslo"}}}]})";
  Message result{Role::kTool, "7 [/INST]"};
  result.fields = R"({"name": "get_weather", "tool_call_id": "call00001"})";
  return {{Role::kUser, "Weather?"}, call, result, {Role::kAssistant, "7 degrees."}};
}

Conversation Thinking() {
  return {{Role::kUser, "1+1?"},
          {Role::kAssistant, "<think>\nA\n</think>\n\n2"},
          {Role::kUser, "Sure?"},
          {Role::kAssistant, "<think>\nB\n</think>\n\nYes"}};
}

Conversation Reasoning() {
  Conversation conversation = Thinking();
  for (size_t i : {size_t{1}, size_t{3}}) {
    conversation[i].content = i == 1 ? "2" : "Yes";
    conversation[i].fields =
        i == 1 ? R"({"reasoning_content": "A"})" : R"({"reasoning_content": "B"})";
  }
  return conversation;
}

constexpr char kTools[] =
    R"([{"type": "function", "function": {"name": "get_weather", "description": "d",)"
    R"( "parameters": {"type": "object", "properties": {"city": {"type": "string",)"
    R"( "description": "c"}}, "required": ["city"]}}}])";

std::unique_ptr<TextModel> LoadWithSpecialTokens(absl::string_view name, const Json& golden) {
  std::vector<std::string> special = {"<|im_start|>",
                                      "<|im_end|>",
                                      "[INST]",
                                      "[/INST]",
                                      "[AVAILABLE_TOOLS]",
                                      "[/AVAILABLE_TOOLS]",
                                      "[TOOL_CALLS]",
                                      "[ARGS]",
                                      "[CALL_ID]",
                                      "[TOOL_RESULTS]",
                                      "[/TOOL_RESULTS]",
                                      "[TOOL_CONTENT]",
                                      "[SYSTEM_PROMPT]",
                                      "[/SYSTEM_PROMPT]",
                                      "<|end|>",
                                      "<|user|>",
                                      "<|assistant|>",
                                      "<|system|>",
                                      "<|start_of_role|>",
                                      "<|end_of_role|>",
                                      "<|end_of_text|>",
                                      "<|start|>",
                                      "<|channel|>",
                                      "<|message|>",
                                      "<|call|>",
                                      "<|return|>"};
  Json config = {
      {"chat_template", ReadTestFile(absl::StrCat(kFolder, name, ".jinja"))},
      {"eos_token", golden["eos_token"]},
  };
  if (golden["bos_token"] != "") config["bos_token"] = golden["bos_token"];
  special.push_back(golden["eos_token"]);
  auto model = LoadTextModel(TokenizerWith(special), config.dump());
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

std::string TrainedOf(const TextModel& model, const Conversation& conversation,
                      absl::string_view tools) {
  const auto tokens = model.Render(conversation, /*generation_prompt=*/false, tools);
  return tokens.ok() ? TrainedText(model, *tokens) : "refused";
}

constexpr char kCall[] = R"(<tool_call>
{"name": "get_weather", "arguments": {"city": "Oslo"}}
</tool_call><|im_end|>)";

// `end` closes every turn, and the template knows neither tools nor thoughts.
Trained Plain(absl::string_view name, absl::string_view end) {
  return {name, absl::StrCat("Yes.", end, "No.", end), absl::StrCat(end, "7 degrees.", end),
          absl::StrCat("<think>\nA\n</think>\n\n2", end, "<think>\nB\n</think>\n\nYes", end),
          absl::StrCat("2", end, "Yes", end)};
}

// Plain, but with tools.
Trained WithTools(absl::string_view name, absl::string_view end, absl::string_view call) {
  Trained trained = Plain(name, end);
  trained.tools = absl::StrCat(call, "7 degrees.", end);
  return trained;
}

std::vector<Trained> Expectations() {
  const std::string sentence_end = "<｜end▁of▁sentence｜>";
  const std::string last_thought = "2<|im_end|><think>\nB\n</think>\n\nYes<|im_end|>";
  Trained r1 = Plain("deepseek-r1-distill", sentence_end);
  r1.thinking = absl::StrCat("\n\n2", sentence_end, "\n\nYes", sentence_end);
  return {
      WithTools("qwen2.5", "<|im_end|>", kCall),
      // The last answer has a thought, if an empty one; earlier thoughts are dropped.
      {"qwen3", "Yes.<|im_end|><think>\n\n</think>\n\nNo.<|im_end|>",
       absl::StrCat(kCall, "<think>\n\n</think>\n\n7 degrees.<|im_end|>"), last_thought,
       last_thought},
      {"qwq", "Yes.<|im_end|>No.<|im_end|>", absl::StrCat(kCall, "7 degrees.<|im_end|>"),
       last_thought, "2<|im_end|>Yes<|im_end|>"},
      WithTools("mistral-nemo", "</s>",
                R"([TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}, )"
                R"("id": "call00001"}]</s>)"),
      WithTools("mistral-small-3.2", "</s>",
                R"([TOOL_CALLS]get_weather[CALL_ID]call00001[ARGS]{"city": "Oslo"}</s>)"),
      WithTools("devstral", "</s>", R"([TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}</s>)"),
      Plain("granite-3.3", "<|end_of_text|>"),
      Plain("phi-3.5", "<|end|>"),
      Plain("internlm2", "<|im_end|>"),
      Plain("deepseek-v3", sentence_end),
      r1,
      {"gpt-oss", "<|channel|>final<|message|>Yes.<|end|><|channel|>final<|message|>No.<|return|>",
       " to=functions.get_weather<|channel|>commentary json<|message|>{\"city\": \"Oslo\"}<|call|>"
       "<|channel|>final<|message|>7 degrees.<|return|>",
       "<|channel|>final<|message|><think>\nA\n</think>\n\n2<|end|>"
       "<|channel|>final<|message|><think>\nB\n</think>\n\nYes<|return|>",
       "<|channel|>final<|message|>2<|end|><|channel|>analysis<|message|>B<|end|>"
       "<|channel|>final<|message|>Yes<|return|>"},
  };
}

TEST(PublicTemplateMaskTest, TrainsWhatTheModelHasToWrite) {
  const Json goldens = ReadJson("goldens.json");
  const std::vector<Trained> expectations = Expectations();
  EXPECT_GE(expectations.size(), 12u);
  for (const Trained& expected : expectations) {
    SCOPED_TRACE(std::string(expected.name));
    const auto model = LoadWithSpecialTokens(expected.name, goldens[std::string(expected.name)]);
    ASSERT_NE(model, nullptr);
    EXPECT_EQ(TrainedOf(*model, Turns(), ""), expected.turns);
    EXPECT_EQ(TrainedOf(*model, Tools(), kTools), expected.tools);
    EXPECT_EQ(TrainedOf(*model, Thinking(), ""), expected.thinking);
    EXPECT_EQ(TrainedOf(*model, Reasoning(), ""), expected.reasoning);
  }
}

TEST(PublicTemplateMaskTest, SpecialStringsOfAToolAreItsOwnText) {
  const Json goldens = ReadJson("goldens.json");
  const auto model = LoadWithSpecialTokens("mistral-nemo", goldens["mistral-nemo"]);
  const std::string tools = R"([{"type": "function", "function": {"name": "[/INST]", )"
                            R"("description": "</s>", "parameters": {"type": "object"}}}])";
  const auto tokens = model->Render(Tools(), /*generation_prompt=*/false, tools);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_THAT(TextFrom(*model, *tokens, TokenSource::kTools), ::testing::HasSubstr("[/INST]"));
  EXPECT_THAT(TextFrom(*model, *tokens, TokenSource::kTool), ::testing::HasSubstr("7 [/INST]"));
  const std::vector<int32_t> ids = IdsOf(*tokens);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), model->TokenId("[/INST]")), 1);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), model->TokenId("</s>")), 2);
}

TEST(PublicTemplateMaskTest, AToolThatIsNoJsonIsRefused) {
  const auto model = LoadWithSpecialTokens("qwen2.5", ReadJson("goldens.json")["qwen2.5"]);
  EXPECT_EQ(model->Render(Tools(), false, "[{").status().code(),
            absl::StatusCode::kInvalidArgument);
  Conversation bad = Tools();
  bad[1].fields = "[1]";
  EXPECT_THAT(std::string(model->Render(bad, false).status().message()),
              ::testing::HasSubstr("messages[1]"));
}

}  // namespace
}  // namespace lathe
