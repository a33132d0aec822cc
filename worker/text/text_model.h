#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/text/conversation.h"
#include "worker/text/template_traits.h"

// The tokenizer and the chat template of one model, together: they are only right together. The C++
// face of textkit.

namespace lathe {

// Where a token of a rendered conversation comes from. A closed list; the names are shown to users.
// kTools: the list of tools; kTool: a message that a tool answered.
enum class TokenSource { kTemplate, kTools, kSystem, kUser, kAssistant, kTool };

struct RenderedToken {
  int32_t id = 0;
  TokenSource source = TokenSource::kTemplate;
  // Index into the conversation; for a template token the message that it follows, or -1.
  int message = -1;
  // What the model has to write in a trained assistant message: all from the end of the prompt that
  // the template gives it (Render with `generation_prompt`) to the token that ends the turn.
  // Besides the content these are the template's words around and between its parts, such as
  // <think> and <tool_call>. docs/decisions/0009-typed-strings.md.
  bool trained = false;
};

// Immutable after construction: safe from several threads.
class TextModel {
 public:
  // Reads tokenizer.json, tokenizer_config.json (eos_token, bos_token, chat_template) and
  // chat_template.jinja (wins over the one in tokenizer_config.json) from a canonical model folder.
  // A folder without a template gives a model that renders nothing. InvalidArgument (NotFound for
  // a missing tokenizer.json) names the file and the fault. Hostile files are bounded in steps and
  // output, but a template can still build large strings: load them in a child process.
  static absl::StatusOr<std::unique_ptr<TextModel>> Load(const std::filesystem::path& model_dir);
  ~TextModel();

  // `special`: whether special strings in `text` become special tokens. No BOS or EOS is added.
  // InvalidArgument: not UTF-8.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool special) const;
  // Special tokens are left out.
  std::string Decode(const std::vector<int32_t>& ids) const;
  // The text of one token alone, special or not; U+FFFD for a part of a character.
  std::string TokenText(int32_t id) const;
  // -1 if there is none.
  int32_t TokenId(absl::string_view token) const;
  // The greatest id plus one.
  int vocabulary_size() const;
  // Ids that end an answer: eos_token, and the token that closes an assistant turn in the template.
  // Ascending; empty if the model names none.
  const std::vector<int32_t>& stop_ids() const;
  // What the template does with tools and thoughts; nothing without a template.
  const TemplateTraits& traits() const;
  // It has no template: a conversation is one question, its source, and one answer, its target.
  bool is_encoder_decoder() const;
  // sha256 of the template's source, in hexadecimal.
  const std::string& template_sha256() const;

  // Renders the conversation once, in typed segments, and tokenises each segment by itself:
  // template text with special tokens, message content without. Never compares rendered prefixes.
  // With `generation_prompt` the template opens the next assistant turn at the end. `tools`: a JSON
  // list of what the model may call, or empty. A part of a content (trimmed, split off, in JSON)
  // stays content. An encoder-decoder's source and target are tokenised like a text each, and end
  // with eos_token.
  // InvalidArgument: a content or field is not UTF-8 or not JSON; there is no template; the
  // template refuses (its own words), needs what we lack (line and construct), or does not end.
  absl::StatusOr<std::vector<RenderedToken>> Render(const Conversation& conversation,
                                                    bool generation_prompt,
                                                    absl::string_view tools = "") const;
  // What `transformers` apply_chat_template(tokenize=False) gives, except that the clock of
  // strftime_now stands still, at 26 July 2024: a row is the same on every day.
  absl::StatusOr<std::string> RenderText(const Conversation& conversation, bool generation_prompt,
                                         absl::string_view tools = "") const;

 private:
  struct State;
  explicit TextModel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Decodes token by token; text comes out as soon as it is whole characters. Thread-compatible.
class StreamDecoder {
 public:
  explicit StreamDecoder(const TextModel& model) : model_(model) {}  // `model` must outlive it.
  std::string Push(int32_t id);
  // What is left at the end.
  std::string Finish();

 private:
  std::string Emit();

  const TextModel& model_;
  std::vector<int32_t> pending_;
  size_t num_waiting_ = 0;
  int num_stalled_ = 0;
  std::string pending_text_;
};

}  // namespace lathe
