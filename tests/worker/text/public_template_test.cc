#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
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

Conversation Tools() {
  Message call{Role::kAssistant, ""};
  call.fields = R"({"tool_calls": [{"type": "function", "id": "call00001", "function":)"
                R"( {"name": "get_weather", "arguments": {"city": "Oslo"}}}]})";
  Message result{Role::kTool, "7 [/INST]"};
  result.fields = R"({"name": "get_weather", "tool_call_id": "call00001"})";
  return {{Role::kUser, "Weather?"}, call, result, {Role::kAssistant, "7 degrees."}};
}

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
                                      "<|return|>",
                                      "<｜User｜>",
                                      "<｜Assistant｜>"};
  Json config = {
      {"chat_template", ReadTestFile(absl::StrCat(kFolder, name, ".jinja"))},
      {"eos_token", golden["eos_token"]},
  };
  if (golden["bos_token"] != "") {
    config["bos_token"] = golden["bos_token"];
    special.push_back(golden["bos_token"]);
  }
  special.push_back(golden["eos_token"]);
  auto model = LoadTextModel(TokenizerWith(special), config.dump());
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

// The conversations of trained/conversations.json. A message's weight is not for templates.
Case ToWeightedCase(Json json) {
  json["generation_prompt"] = false;
  std::vector<bool> trained;
  for (Json& message : json["messages"]) {
    trained.push_back(message.value("weight", 1) == 1);
    message.erase("weight");
  }
  Case one = ToCase(json);
  for (size_t i = 0; i < trained.size(); ++i) one.conversation[i].trained = trained[i];
  return one;
}

// The text of the tokens, the trained ones in brackets.
std::string Marked(const TextModel& model, const std::vector<RenderedToken>& tokens) {
  std::string text;
  std::vector<int32_t> plain;  // A character may take several of them.
  const auto flush = [&] {
    text += model.Decode(plain);
    plain.clear();
  };
  bool is_trained = false;
  for (const RenderedToken& token : tokens) {
    const bool is_special = model.Decode({token.id}).empty();
    if (is_special || token.trained != is_trained) flush();
    if (token.trained != is_trained) text += token.trained ? "⟦" : "⟧";
    is_trained = token.trained;
    if (is_special) text += model.TokenText(token.id);
    if (!is_special) plain.push_back(token.id);
  }
  flush();
  return text + (is_trained ? "⟧" : "");
}

// "===== NAME", then the text, by name.
std::map<std::string, std::string> ReadMarked(absl::string_view name) {
  std::map<std::string, std::string> texts;
  const std::string file = ReadTestFile(absl::StrCat(kFolder, "trained/", name, ".txt"));
  for (const absl::string_view part : absl::StrSplit(file, "===== ", absl::SkipEmpty())) {
    const std::pair<std::string, std::string> one = absl::StrSplit(part, absl::MaxSplits('\n', 1));
    texts[one.first] = std::string(absl::StripSuffix(one.second, "\n"));
  }
  return texts;
}

// Each trained answer ends with one token that ends a turn, which is trained; a template's BOS
// stands at the begin and nowhere else. That EOS may be the padding token changes nothing: there is
// no padding.
void ExpectEnds(const TextModel& model, const std::vector<RenderedToken>& tokens,
                const Json& golden) {
  const std::vector<int32_t>& stops = model.stop_ids();
  const auto is_stop = [&](int32_t id) {
    return std::binary_search(stops.begin(), stops.end(), id);
  };
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!tokens[i].trained) continue;
    const bool is_last = i + 1 == tokens.size() || !tokens[i + 1].trained;
    EXPECT_EQ(is_stop(tokens[i].id), is_last) << "token " << i;
  }
  const std::string bos = golden["bos_token"];
  if (bos.empty() || bos == golden["eos_token"]) return;
  const int32_t id = model.TokenId(bos);
  const auto is_bos = [id](const RenderedToken& token) { return token.id == id; };
  const auto count = std::count_if(tokens.begin(), tokens.end(), is_bos);
  EXPECT_EQ(count, id >= 0 && is_bos(tokens[0]) ? 1 : 0);
}

TEST(PublicTemplateMaskTest, TrainsWhatIsMarkedByHand) {
  const Json goldens = ReadJson("goldens.json");
  const Json conversations = ReadJson("trained/conversations.json");
  int num_templates = 0;
  for (const auto& [name, golden] : goldens.items()) {
    if (golden["licence"].is_null()) continue;
    ++num_templates;
    const auto model = LoadWithSpecialTokens(name, golden);
    ASSERT_NE(model, nullptr);
    std::map<std::string, std::string> expected = ReadMarked(name);
    for (const auto& [kind, json] : conversations.items()) {
      SCOPED_TRACE(name + ", " + kind);
      const Case one = ToWeightedCase(json);
      const auto tokens = model->Render(one.conversation, /*generation_prompt=*/false, one.tools);
      ASSERT_TRUE(tokens.ok()) << tokens.status();
      EXPECT_EQ(Marked(*model, *tokens), expected[kind]);
      ExpectEnds(*model, *tokens, golden);
    }
  }
  EXPECT_GE(num_templates, 12);
}

TEST(PublicTemplateMaskTest, AnEosThatIsTheBosAndThePadIsStillTrained) {
  // Granite's one token for all three.
  const Json golden = ReadJson("goldens.json")["granite-3.3"];
  ASSERT_EQ(golden["bos_token"], golden["eos_token"]);
  const auto model = LoadWithSpecialTokens("granite-3.3", golden);
  const auto tokens = model->Render({{Role::kUser, "a"}, {Role::kAssistant, "b"}}, false);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(TrainedText(*model, *tokens), "b<|end_of_text|>");
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
