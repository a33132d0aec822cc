#include "worker/text/text_model.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "rust/cxx.h"
#include "textkit/bridge.h"
#include "worker/text/model_files.h"
#include "worker/text/segments.h"

namespace lathe {
namespace {

using textkit::Seam;

rust::Slice<const uint8_t> Bytes(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Calls into textkit, whose errors arrive as exceptions with a one-line text.
template <typename Body>
auto Guard(Body body) -> absl::StatusOr<decltype(body())> {
  try {
    return body();
  } catch (const rust::Error& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

absl::string_view RoleName(Role role) {
  switch (role) {
    case Role::kSystem:
      return "system";
    case Role::kUser:
      return "user";
    case Role::kAssistant:
      return "assistant";
    case Role::kTool:
      return "tool";
  }
  return "";
}

TokenSource SourceOf(Role role) {
  switch (role) {
    case Role::kSystem:
      return TokenSource::kSystem;
    case Role::kUser:
      return TokenSource::kUser;
    case Role::kAssistant:
      return TokenSource::kAssistant;
    case Role::kTool:
      return TokenSource::kTool;
  }
  return TokenSource::kTemplate;
}

absl::Status CheckUtf8(absl::string_view text, absl::string_view what) {
  const int64_t fault = textkit::utf8_fault(Bytes(text));
  if (fault < 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, ": byte ", fault, " is not valid UTF-8; allowed is UTF-8"));
}

// A source, and unless it is a prompt a target.
absl::Status CheckSource(const Conversation& conversation, bool generation_prompt,
                         absl::string_view tools) {
  const auto refuse = [](absl::string_view has) {
    return absl::InvalidArgumentError(
        absl::StrCat("this model is an encoder-decoder, which takes one question and gives one "
                     "answer, without system message, history or tools; this one has ",
                     has));
  };
  if (!tools.empty()) return refuse("tools");
  for (size_t i = 0; i < conversation.size(); ++i) {
    const Message& message = conversation[i];
    LATHE_RETURN_IF_ERROR(CheckUtf8(message.content, absl::StrCat("messages[", i, "]")));
    if (message.role == Role::kSystem) return refuse("a system message");
    if (message.role == Role::kTool) return refuse("a tool's message");
    if (!message.fields.empty()) return refuse("a message with more than its content");
  }
  const size_t wanted = generation_prompt ? 1 : 2;
  const bool fits = conversation.size() == wanted && conversation[0].role == Role::kUser &&
                    (wanted == 1 || conversation[1].role == Role::kAssistant);
  return fits ? absl::OkStatus() : refuse(absl::StrCat(conversation.size(), " messages"));
}

absl::StatusOr<rust::Vec<textkit::ChatMessage>> ToBridge(const Conversation& conversation) {
  rust::Vec<textkit::ChatMessage> messages;
  messages.reserve(conversation.size());
  for (size_t i = 0; i < conversation.size(); ++i) {
    const Message& message = conversation[i];
    const absl::string_view role = RoleName(message.role);
    const std::string what = absl::StrCat("messages[", i, "] (", role, ")");
    LATHE_RETURN_IF_ERROR(CheckUtf8(message.content, what));
    LATHE_RETURN_IF_ERROR(CheckUtf8(message.fields, what));
    messages.push_back({rust::String(role.data(), role.size()), message.has_content,
                        rust::String(message.content), rust::String(message.fields)});
  }
  return messages;
}

absl::StatusOr<rust::Box<textkit::ChatTemplate>> LoadTemplate(const ModelFiles& files) {
  rust::Vec<textkit::TemplateVariable> variables;
  for (const auto& [name, value] : files.special_tokens) {
    variables.push_back({rust::String(name), rust::String(value)});
  }
  return Guard(
      [&] { return textkit::load_template(Bytes(files.chat_template), std::move(variables)); });
}

std::vector<int32_t> ToVector(const rust::Vec<int32_t>& ids) { return {ids.begin(), ids.end()}; }

}  // namespace

struct TextModel::State {
  rust::Box<textkit::Tokenizer> tokenizer;
  std::optional<rust::Box<textkit::ChatTemplate>> chat_template;
  std::string template_sha256;
  std::vector<int32_t> stop_ids;
  TemplateTraits traits;
  // eos_token's id, or -1. It closes a turn even where the file does not call it special.
  int32_t eos_id = -1;
  bool is_encoder_decoder = false;

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool special,
                                              Seam seam) const {
    return Guard([&] { return ToVector(tokenizer->encode(Bytes(text), special, seam)); });
  }
  bool IsSpecial(int32_t id) const { return id == eos_id || tokenizer->is_special(id); }
  bool IsStop(int32_t id) const { return std::binary_search(stop_ids.begin(), stop_ids.end(), id); }
  absl::StatusOr<textkit::Rendered> RenderSegments(const Conversation& conversation,
                                                   bool generation_prompt,
                                                   absl::string_view tools) const;
  // Tokenises the segments one by one and says where each token comes from.
  absl::StatusOr<std::vector<RenderedToken>> Tokenise(const std::vector<Segment>& segments,
                                                      const Conversation& conversation) const;
  // What an encoder-decoder makes of a conversation.
  absl::StatusOr<std::vector<RenderedToken>> RenderSource(const Conversation& conversation,
                                                          bool generation_prompt,
                                                          absl::string_view tools) const;
  // The template's words at the end of the prompt for answer `index`.
  std::vector<Prompt> FindPrompts(const Conversation& conversation, size_t index,
                                  absl::string_view tools) const;
  Seam SeamAfter(const std::vector<RenderedToken>& tokens) const;
  // How many tokens of a segment, from its first.
  size_t NumTrained(const std::vector<int32_t>& ids, Training training) const;
  // How many tokens of the template, right after an answer, end its turn; 0 if none does.
  size_t EndOfTurn(const std::vector<int32_t>& ids) const;
  absl::Status CheckTemplate() const;
  // Sets stop_ids.
  void FindStopIds();
  void AddClosingTokens(const Conversation& probe, std::vector<int32_t>& ids) const;
};

absl::StatusOr<textkit::Rendered> TextModel::State::RenderSegments(const Conversation& conversation,
                                                                   bool generation_prompt,
                                                                   absl::string_view tools) const {
  LATHE_RETURN_IF_ERROR(CheckTemplate());
  LATHE_RETURN_IF_ERROR(CheckUtf8(tools, "tools"));
  LATHE_ASSIGN_OR_RETURN(const auto messages, ToBridge(conversation));
  return Guard([&] {
    return (*chat_template)
        ->render_segments(messages, rust::Str(tools.data(), tools.size()), generation_prompt);
  });
}

absl::Status TextModel::State::CheckTemplate() const {
  if (chat_template.has_value()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "chat template: the model has none; a model for conversations has chat_template.jinja, or "
      "chat_template in tokenizer_config.json");
}

absl::StatusOr<std::vector<RenderedToken>> TextModel::State::Tokenise(
    const std::vector<Segment>& segments, const Conversation& conversation) const {
  std::vector<RenderedToken> tokens;
  int message = -1;
  int ended = -2;  // A template may print parts of an answer again after its turn.
  for (const Segment& segment : segments) {
    const bool is_template = segment.origin == kFromTemplate;
    LATHE_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                           Encode(segment.text, /*special=*/is_template, SeamAfter(tokens)));
    TokenSource source = is_template ? TokenSource::kTemplate : TokenSource::kTools;
    if (segment.origin >= 0) {
      message = segment.origin;
      source = SourceOf(conversation[static_cast<size_t>(message)].role);
    }
    const size_t num_trained = message == ended ? 0 : NumTrained(ids, segment.training);
    if (segment.training == Training::kInside && num_trained < ids.size()) ended = message;
    for (size_t i = 0; i < ids.size(); ++i) {
      tokens.push_back({ids[i], source, message, i < num_trained});
    }
  }
  return tokens;
}

absl::StatusOr<std::vector<RenderedToken>> TextModel::State::RenderSource(
    const Conversation& conversation, bool generation_prompt, absl::string_view tools) const {
  LATHE_RETURN_IF_ERROR(CheckSource(conversation, generation_prompt, tools));
  std::vector<RenderedToken> tokens;
  for (size_t i = 0; i < conversation.size(); ++i) {
    const Message& message = conversation[i];
    const bool is_target = message.role == Role::kAssistant;
    const int index = static_cast<int>(i);
    LATHE_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                           Encode(message.content, /*special=*/false, Seam::TextStart));
    if (ids.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the ", is_target ? "target" : "source", " has no token in this model"));
    }
    const bool trained = is_target && message.trained;
    for (const int32_t id : ids) tokens.push_back({id, SourceOf(message.role), index, trained});
    tokens.push_back({eos_id, TokenSource::kTemplate, index, trained});
  }
  return tokens;
}

std::vector<Prompt> TextModel::State::FindPrompts(const Conversation& conversation, size_t index,
                                                  absl::string_view tools) const {
  Conversation before(conversation.begin(),
                      conversation.begin() + static_cast<std::ptrdiff_t>(index));
  const auto prompt = RenderSegments(before, /*generation_prompt=*/true, tools);
  const auto without = RenderSegments(before, /*generation_prompt=*/false, tools);
  if (!prompt.ok() || !without.ok()) return {};
  std::vector<Prompt> found;
  const bool has_prompt = prompt->text != without->text;
  if (has_prompt) found.push_back(EndOfPrompt(*prompt));
  before.push_back({Role::kAssistant, "x"});
  const auto answered = RenderSegments(before, /*generation_prompt=*/false, tools);
  if (answered.ok()) {
    found.push_back(BeforeLastMessage(*answered, static_cast<int>(index)));
    found.back().is_only_guess = !has_prompt;
  }
  return found;
}

Seam TextModel::State::SeamAfter(const std::vector<RenderedToken>& tokens) const {
  if (tokens.empty()) return Seam::TextStart;
  return IsSpecial(tokens.back().id) ? Seam::AfterSpecial : Seam::Continuation;
}

size_t TextModel::State::NumTrained(const std::vector<int32_t>& ids, Training training) const {
  switch (training) {
    case Training::kNone:
      return 0;
    case Training::kAll:
      return ids.size();
    case Training::kInside: {
      const auto stop =
          std::find_if(ids.begin(), ids.end(), [this](int32_t id) { return IsStop(id); });
      return stop == ids.end() ? ids.size() : static_cast<size_t>(stop - ids.begin()) + 1;
    }
    case Training::kEndOfTurn:
      return EndOfTurn(ids);
  }
  return 0;
}

// The first that ends an answer; before these are known, the first special one.
size_t TextModel::State::EndOfTurn(const std::vector<int32_t>& ids) const {
  auto end = std::find_if(ids.begin(), ids.end(), [this](int32_t id) { return IsStop(id); });
  if (end == ids.end()) {
    end = std::find_if(ids.begin(), ids.end(), [this](int32_t id) { return IsSpecial(id); });
  }
  return end == ids.end() ? 0 : static_cast<size_t>(end - ids.begin()) + 1;
}

// Renders small conversations and looks at what closes the answer: after the last turn, and before
// another one (some templates close a turn only by opening the next); then after a call of a tool.
void TextModel::State::FindStopIds() {
  const Message system{Role::kSystem, "a"}, user{Role::kUser, "b"}, answer{Role::kAssistant, "c"};
  Message call{Role::kAssistant, ""};
  call.fields = R"({"tool_calls": [{"type": "function", "id": "call00000", "function":)"
                R"( {"name": "f", "arguments": {"d": "e"}}}]})";
  if (eos_id >= 0) stop_ids = {eos_id};
  std::vector<int32_t> ids = stop_ids;
  for (const Conversation& probe : {Conversation{user, answer}, Conversation{user, answer, user},
                                    Conversation{system, user, answer}}) {
    AddClosingTokens(probe, ids);
  }
  const auto set_stop_ids = [&] {
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    stop_ids = ids;
  };
  set_stop_ids();
  AddClosingTokens({user, call}, ids);
  set_stop_ids();
}

void TextModel::State::AddClosingTokens(const Conversation& probe,
                                        std::vector<int32_t>& ids) const {
  // A template may refuse one, for example without a system message.
  const auto rendered = RenderSegments(probe, /*generation_prompt=*/false, /*tools=*/"");
  if (!rendered.ok()) return;
  const std::vector<Segment> segments = SplitSegments(*rendered, probe, NoPrompt);
  for (const Segment& segment : segments) {
    if (segment.training != Training::kEndOfTurn) continue;
    const auto tokens = Encode(segment.text, /*special=*/true, Seam::Continuation);
    if (!tokens.ok()) return;
    const size_t count = EndOfTurn(*tokens);
    if (count > 0) ids.push_back((*tokens)[count - 1]);
  }
}

TextModel::TextModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
TextModel::~TextModel() = default;

absl::StatusOr<std::unique_ptr<TextModel>> TextModel::Load(const std::filesystem::path& model_dir) {
  LATHE_ASSIGN_OR_RETURN(const ModelFiles files, ReadModelFiles(model_dir));
  auto tokenizer = Guard([&] { return textkit::load_tokenizer(Bytes(files.tokenizer_json)); });
  const std::string tokenizer_file = (model_dir / "tokenizer.json").string();
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), tokenizer_file);
  std::unique_ptr<State> state(
      new State{*std::move(tokenizer), {}, {}, {}, {}, -1, files.is_encoder_decoder});
  if (!files.eos_token.empty()) {
    state->eos_id = state->tokenizer->token_id(Bytes(files.eos_token));
    if (state->eos_id < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          (model_dir / "tokenizer_config.json").string(), ": eos_token is '",
          absl::Utf8SafeCEscape(files.eos_token), "', which ", tokenizer_file, " does not have"));
    }
  }
  if (files.is_encoder_decoder && state->eos_id < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat((model_dir / "tokenizer_config.json").string(),
                     ": has no eos_token, with which an encoder-decoder's texts end"));
  }
  if (!files.chat_template.empty() && !files.is_encoder_decoder) {
    auto chat_template = LoadTemplate(files);
    if (!chat_template.ok()) {
      return Annotate(chat_template.status(), (model_dir / files.chat_template_file).string());
    }
    state->chat_template = *std::move(chat_template);
  }
  state->template_sha256 = Sha256Hex(files.is_encoder_decoder ? "" : files.chat_template);
  state->FindStopIds();
  if (state->chat_template.has_value()) {
    state->traits = FindTraits([&](const Conversation& conversation,
                                   absl::string_view tools) -> absl::StatusOr<std::string> {
      LATHE_ASSIGN_OR_RETURN(
          const textkit::Rendered rendered,
          state->RenderSegments(conversation, /*generation_prompt=*/false, tools));
      return std::string(rendered.text);
    });
  }
  return std::unique_ptr<TextModel>(new TextModel(std::move(state)));
}

absl::StatusOr<std::vector<int32_t>> TextModel::Encode(absl::string_view text, bool special) const {
  return state_->Encode(text, special, Seam::TextStart);
}

std::string TextModel::Decode(const std::vector<int32_t>& ids) const {
  const auto text = Guard([&] {
    return std::string(state_->tokenizer->decode({ids.data(), ids.size()}));
  });
  return text.value_or("");
}

std::string TextModel::TokenText(int32_t id) const {
  return Guard([&] { return std::string(state_->tokenizer->token_text(id)); }).value_or("");
}

int32_t TextModel::TokenId(absl::string_view token) const {
  return state_->tokenizer->token_id(Bytes(token));
}

int TextModel::vocabulary_size() const { return state_->tokenizer->vocabulary_size(); }
const std::vector<int32_t>& TextModel::stop_ids() const { return state_->stop_ids; }
const TemplateTraits& TextModel::traits() const { return state_->traits; }
bool TextModel::is_encoder_decoder() const { return state_->is_encoder_decoder; }
const std::string& TextModel::template_sha256() const { return state_->template_sha256; }

absl::StatusOr<std::vector<RenderedToken>> TextModel::Render(const Conversation& conversation,
                                                             bool generation_prompt,
                                                             absl::string_view tools) const {
  if (state_->is_encoder_decoder) {
    return state_->RenderSource(conversation, generation_prompt, tools);
  }
  LATHE_ASSIGN_OR_RETURN(const textkit::Rendered rendered,
                         state_->RenderSegments(conversation, generation_prompt, tools));
  const auto prompts_before = [&](size_t index) {
    return state_->FindPrompts(conversation, index, tools);
  };
  return state_->Tokenise(SplitSegments(rendered, conversation, prompts_before), conversation);
}

absl::StatusOr<std::string> TextModel::RenderText(const Conversation& conversation,
                                                  bool generation_prompt,
                                                  absl::string_view tools) const {
  LATHE_ASSIGN_OR_RETURN(const textkit::Rendered rendered,
                         state_->RenderSegments(conversation, generation_prompt, tools));
  return std::string(rendered.text);
}

}  // namespace lathe
