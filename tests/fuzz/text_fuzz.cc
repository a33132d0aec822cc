// Tokenizers and chat templates, all the way through textkit.

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_targets.h"
#include "worker/formats/gguf.h"
#include "worker/formats/import_source.h"
#include "worker/formats/tokenizer_json.h"
#include "worker/text/text_model.h"

namespace lathe {
namespace {

// "</s>" is a special token and no word: plain text can never become it.
constexpr absl::string_view kWordTokenizer = R"({"version": "1.0", "added_tokens": [
  {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
   "normalized": false, "special": true}],
  "model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}})";

void RequireKnownIds(const TextModel& model, const std::vector<int32_t>& ids) {
  Require(std::all_of(ids.begin(), ids.end(),
                      [&](int32_t id) { return id >= 0 && id < model.vocabulary_size(); }),
          "an id is outside of the vocabulary");
}

void EncodeAndDecode(const TextModel& model, absl::string_view text) {
  for (const bool special : {false, true}) {
    const auto ids = model.Encode(text, special);
    RequireGoodError(ids.status());
    if (!ids.ok()) continue;
    RequireKnownIds(model, *ids);
    model.Decode(*ids);
    StreamDecoder decoder(model);
    for (size_t i = 0; i < std::min<size_t>(ids->size(), 64); ++i) decoder.Push((*ids)[i]);
    decoder.Finish();
  }
  for (int id = 0; id < std::min(model.vocabulary_size(), 16); ++id) model.TokenText(id);
}

void LoadTokenizer(const InputFolder& folder, absl::string_view text) {
  const auto model = TextModel::Load(folder.path());
  RequireGoodError(model.status());
  if (model.ok()) EncodeAndDecode(**model, text);
}

// The template interpreter is ours: it has an answer to everything.
void RequireNoPanic(const absl::Status& status) {
  RequireGoodError(status);
  // What a message quotes is the input, which has learnt these words.
  const absl::string_view own = status.message().substr(0, status.message().find('`'));
  Require(!absl::StrContains(own, "the text library gave up"), status.message());
}

// {"messages": [{"role", "content", further fields}]}; whatever does not fit is left out.
Conversation ReadConversation(absl::string_view text) {
  using nlohmann::json;
  const json root = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  Conversation conversation;
  if (!root.is_object() || !root.contains("messages")) return conversation;
  for (json message : root["messages"]) {
    if (!message.is_object()) continue;
    const json role = message.value("role", json());
    const json content = message.value("content", json());
    message.erase("role");
    message.erase("content");
    Message& added = conversation.emplace_back();
    added.role = role == "system"      ? Role::kSystem
                 : role == "assistant" ? Role::kAssistant
                 : role == "tool"      ? Role::kTool
                                       : Role::kUser;
    added.has_content = content.is_string();
    if (added.has_content) added.content = content.get<std::string>();
    added.trained = message.value("weight", json()) != 0;
    if (!message.empty())
      added.fields = message.dump(-1, ' ', false, json::error_handler_t::replace);
  }
  return conversation;
}

void RenderAll(const TextModel& model, const Conversation& conversation, bool generation_prompt,
               absl::string_view tools) {
  const auto text = model.RenderText(conversation, generation_prompt, tools);
  RequireNoPanic(text.status());
  const auto tokens = model.Render(conversation, generation_prompt, tools);
  RequireNoPanic(tokens.status());
  if (!tokens.ok()) return;
  Require(text.ok(), "what can be rendered to tokens can be rendered to text");
  const int32_t special = model.TokenId("</s>");
  for (const RenderedToken& token : *tokens) {
    Require(token.message < static_cast<int>(conversation.size()), "a token is of no message");
    Require(token.id != special || token.source == TokenSource::kTemplate,
            "a user's text became a special token");
    Require(!token.trained || token.message >= 0, "a token of no message is trained");
  }
}

}  // namespace

void FuzzTokenizer(absl::string_view input) {
  static const auto* folder = new InputFolder();
  const std::vector<absl::string_view> parts = SplitParts(input, 2);
  folder->Write("tokenizer.json", parts[0]);
  LoadTokenizer(*folder, parts[1]);
}

void FuzzSentencePiece(absl::string_view input) {
  static const auto* folder = new InputFolder();
  if (input.empty()) return;
  constexpr absl::string_view kClasses[] = {"LlamaTokenizer", "ChatGLMTokenizer", "T5Tokenizer",
                                            "PreTrainedTokenizerFast"};
  const auto choice = static_cast<uint8_t>(input[0]);
  SentencePieceOptions options;
  options.tokenizer_class = std::string(kClasses[choice & 3]);
  options.legacy = (choice & 4) != 0;
  options.add_prefix_space = (choice & 8) == 0;
  options.extra_ids = choice >> 4;
  const auto json = TokenizerJsonFromSentencePiece(input.substr(1), options);
  RequireGoodError(json.status());
  if (!json.ok()) return;
  folder->Write("tokenizer.json", *json);
  LoadTokenizer(*folder, "Hello, w\xC3\xB6rld 42 </s> \xE4\xBD\xA0\n");
}

void FuzzTemplate(absl::string_view input) {
  static const auto* folder = [] {
    auto* made = new InputFolder();
    made->Write("tokenizer.json", kWordTokenizer);
    made->Write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "</s>"})");
    return made;
  }();
  const std::vector<absl::string_view> parts = SplitParts(input, 3);
  folder->Write("chat_template.jinja", parts[0]);
  const auto model = TextModel::Load(folder->path());
  RequireNoPanic(model.status());
  if (!model.ok()) return;
  Conversation conversation = ReadConversation(parts[1]);
  if (conversation.empty()) {
    conversation = {{Role::kSystem, "a"}, {Role::kUser, "b </s>"}, {Role::kAssistant, "c"}};
  }
  RenderAll(**model, conversation, /*generation_prompt=*/false, parts[2]);
  RenderAll(**model, conversation, /*generation_prompt=*/true, parts[2]);
}

}  // namespace lathe
