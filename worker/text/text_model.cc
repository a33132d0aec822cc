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
  }
  return TokenSource::kTemplate;
}

absl::StatusOr<rust::Vec<textkit::ChatMessage>> ToBridge(const Conversation& conversation) {
  rust::Vec<textkit::ChatMessage> messages;
  messages.reserve(conversation.size());
  for (size_t i = 0; i < conversation.size(); ++i) {
    const Message& message = conversation[i];
    const absl::string_view role = RoleName(message.role);
    const int64_t fault = textkit::utf8_fault(Bytes(message.content));
    if (fault >= 0) {
      return absl::InvalidArgumentError(absl::StrCat("messages[", i, "] (", role, "): byte ", fault,
                                                     " is not valid UTF-8; allowed is UTF-8"));
    }
    messages.push_back({rust::String(role.data(), role.size()), rust::String(message.content)});
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
  // eos_token's id, or -1. It closes a turn even where the file does not call it special.
  int32_t eos_id = -1;

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool special,
                                              Seam seam) const {
    return Guard([&] { return ToVector(tokenizer->encode(Bytes(text), special, seam)); });
  }
  bool IsSpecial(int32_t id) const { return id == eos_id || tokenizer->is_special(id); }
  absl::StatusOr<textkit::Rendered> RenderSegments(const Conversation& conversation,
                                                   bool generation_prompt) const;
  // Tokenises the segments one by one and says where each token comes from.
  absl::StatusOr<std::vector<RenderedToken>> Tokenise(const textkit::Rendered& rendered,
                                                      const Conversation& conversation) const;
  Seam SeamAfter(const std::vector<RenderedToken>& tokens) const;
  // How many tokens of the template, right after an answer, end its turn; 0 if none is special.
  size_t EndOfTurn(const std::vector<int32_t>& ids) const;
  absl::Status CheckTemplate() const;
  std::vector<int32_t> FindStopIds() const;
};

absl::StatusOr<textkit::Rendered> TextModel::State::RenderSegments(const Conversation& conversation,
                                                                   bool generation_prompt) const {
  LATHE_RETURN_IF_ERROR(CheckTemplate());
  LATHE_ASSIGN_OR_RETURN(const auto messages, ToBridge(conversation));
  return Guard([&] { return (*chat_template)->render_segments(messages, generation_prompt); });
}

absl::Status TextModel::State::CheckTemplate() const {
  if (chat_template.has_value()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "chat template: the model has none; a model for conversations has chat_template.jinja, or "
      "chat_template in tokenizer_config.json");
}

absl::StatusOr<std::vector<RenderedToken>> TextModel::State::Tokenise(
    const textkit::Rendered& rendered, const Conversation& conversation) const {
  const absl::string_view text(rendered.text.data(), rendered.text.size());
  std::vector<RenderedToken> tokens;
  int message = -1;
  bool is_turn_open = false;  // A trained answer has ended, its end-of-turn token comes next.
  for (const textkit::Segment& segment : rendered.segments) {
    const bool is_content = segment.message >= 0;
    const absl::string_view part = text.substr(segment.begin, segment.end - segment.begin);
    LATHE_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                           Encode(part, /*special=*/!is_content, SeamAfter(tokens)));
    TokenSource source = TokenSource::kTemplate;
    size_t num_trained = is_turn_open ? EndOfTurn(ids) : 0;
    is_turn_open = false;
    if (is_content) {
      message = segment.message;
      const Message& from = conversation[static_cast<size_t>(message)];
      source = SourceOf(from.role);
      is_turn_open = from.role == Role::kAssistant && from.trained;
      num_trained = is_turn_open ? ids.size() : 0;
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      tokens.push_back({ids[i], source, message, i < num_trained});
    }
  }
  return tokens;
}

Seam TextModel::State::SeamAfter(const std::vector<RenderedToken>& tokens) const {
  if (tokens.empty()) return Seam::TextStart;
  return IsSpecial(tokens.back().id) ? Seam::AfterSpecial : Seam::Continuation;
}

size_t TextModel::State::EndOfTurn(const std::vector<int32_t>& ids) const {
  const auto end =
      std::find_if(ids.begin(), ids.end(), [this](int32_t id) { return IsSpecial(id); });
  return end == ids.end() ? 0 : static_cast<size_t>(end - ids.begin()) + 1;
}

// Renders small conversations and looks at what closes the answer: after the last turn, and before
// another one (some templates close a turn only by opening the next).
std::vector<int32_t> TextModel::State::FindStopIds() const {
  const Message system{Role::kSystem, "a"}, user{Role::kUser, "b"}, answer{Role::kAssistant, "c"};
  std::vector<int32_t> ids;
  if (eos_id >= 0) ids.push_back(eos_id);
  for (const Conversation& probe : {Conversation{user, answer}, Conversation{user, answer, user},
                                    Conversation{system, user, answer}}) {
    // A template may refuse some of them, for example one without a system message.
    const auto rendered = RenderSegments(probe, /*generation_prompt=*/false);
    if (!rendered.ok()) continue;
    const auto tokens = Tokenise(*rendered, probe);
    if (!tokens.ok()) continue;
    for (const RenderedToken& token : *tokens) {
      const bool closes = token.trained && token.source == TokenSource::kTemplate;
      if (closes && IsSpecial(token.id)) ids.push_back(token.id);
    }
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

TextModel::TextModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
TextModel::~TextModel() = default;

absl::StatusOr<std::unique_ptr<TextModel>> TextModel::Load(const std::filesystem::path& model_dir) {
  LATHE_ASSIGN_OR_RETURN(const ModelFiles files, ReadModelFiles(model_dir));
  auto tokenizer = Guard([&] { return textkit::load_tokenizer(Bytes(files.tokenizer_json)); });
  const std::string tokenizer_file = (model_dir / "tokenizer.json").string();
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), tokenizer_file);
  std::unique_ptr<State> state(new State{*std::move(tokenizer), {}, {}, {}, -1});
  if (!files.eos_token.empty()) {
    state->eos_id = state->tokenizer->token_id(Bytes(files.eos_token));
    if (state->eos_id < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          (model_dir / "tokenizer_config.json").string(), ": eos_token is '",
          absl::Utf8SafeCEscape(files.eos_token), "', which ", tokenizer_file, " does not have"));
    }
  }
  if (!files.chat_template.empty()) {
    auto chat_template = LoadTemplate(files);
    if (!chat_template.ok()) {
      return Annotate(chat_template.status(), (model_dir / files.chat_template_file).string());
    }
    state->chat_template = *std::move(chat_template);
  }
  state->template_sha256 = Sha256Hex(files.chat_template);
  state->stop_ids = state->FindStopIds();
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
const std::string& TextModel::template_sha256() const { return state_->template_sha256; }

absl::StatusOr<std::vector<RenderedToken>> TextModel::Render(const Conversation& conversation,
                                                             bool generation_prompt) const {
  LATHE_ASSIGN_OR_RETURN(const textkit::Rendered rendered,
                         state_->RenderSegments(conversation, generation_prompt));
  return state_->Tokenise(rendered, conversation);
}

absl::StatusOr<std::string> TextModel::RenderText(const Conversation& conversation,
                                                  bool generation_prompt) const {
  LATHE_RETURN_IF_ERROR(state_->CheckTemplate());
  LATHE_ASSIGN_OR_RETURN(const auto messages, ToBridge(conversation));
  return Guard([&] {
    return std::string((*state_->chat_template)->render_text(messages, generation_prompt));
  });
}

}  // namespace lathe
