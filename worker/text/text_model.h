#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/text/conversation.h"

// The tokenizer and the chat template of one model, together: they are only right together. The C++
// face of textkit.

namespace lathe {

// Where a token of a rendered conversation comes from. A closed list; the names are shown to users.
enum class TokenSource { kTemplate, kSystem, kUser, kAssistant };

struct RenderedToken {
  int32_t id = 0;
  TokenSource source = TokenSource::kTemplate;
  int message =
      -1;  // Index into the conversation; for a template token the message that it follows, or -1.
  bool trained =
      false;  // Content of a trained assistant message, and the end-of-turn token that closes it.
};

// Immutable after construction: safe from several threads.
class TextModel {
 public:
  // Reads tokenizer.json, tokenizer_config.json (eos_token, bos_token, chat_template) and
  // chat_template.jinja (wins over the one in tokenizer_config.json) from a canonical model folder.
  // InvalidArgument names the file and the fault.
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
  int vocabulary_size() const;
  // Ids that end an answer: eos_token, and the token that closes an assistant turn in the template.
  const std::vector<int32_t>& stop_ids() const;
  // sha256 of the template's source.
  const std::string& template_sha256() const;

  // Renders the conversation once, in typed segments, and tokenises each segment by itself:
  // template text with special tokens, message content without. Never compares rendered prefixes.
  // With `generation_prompt` the template opens the next assistant turn at the end.
  // InvalidArgument: the template refuses (its own words), or needs what we lack.
  absl::StatusOr<std::vector<RenderedToken>> Render(const Conversation& conversation,
                                                    bool generation_prompt) const;
  // What `transformers` apply_chat_template(tokenize=False) gives.
  absl::StatusOr<std::string> RenderText(const Conversation& conversation,
                                         bool generation_prompt) const;

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
  const TextModel& model_;
  std::vector<int32_t> pending_;
  std::string pending_text_;
};

}  // namespace lathe
