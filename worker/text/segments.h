#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "textkit/bridge.h"
#include "worker/text/conversation.h"

// Which parts of a rendered conversation are trained. Inside of worker/text.

namespace lathe {

inline constexpr int kFromTemplate = -1;
inline constexpr int kFromTools = -2;

enum class Training {
  kNone,
  kAll,
  kInside,     // All, between two parts of an answer; but the answer ends with its turn.
  kEndOfTurn,  // Up to and including the first token that ends a turn.
};

// A part of the text that is tokenised by itself. `text` points into the rendered text.
struct Segment {
  absl::string_view text;
  int origin = kFromTemplate;  // Or kFromTools, or an index into the conversation.
  Training training = Training::kNone;
};

// The template's words between the last message of a prompt and the answer that it asks for.
struct Prompt {
  std::string end;
  int last_message = -1;       // Whose text stands before `end`; -1: none's.
  bool is_guessed = false;     // `end` is what the template puts before a plain answer.
  bool is_only_guess = false;  // And it has no prompt: a part of `end` counts too.
};
// All that may stand before answer `index`.
using PromptsBefore = std::function<std::vector<Prompt>(size_t index)>;

Prompt EndOfPrompt(const textkit::Rendered& prompt);
// From a conversation whose last message is a plain answer.
Prompt BeforeLastMessage(const textkit::Rendered& rendered, int last_message);
// Knows nothing: only contents and ends of turns are trained.
std::vector<Prompt> NoPrompt(size_t index);

// In the order of the text. A trained answer's own text is trained; so is what the template puts
// between two parts of it; so is the end of its turn. What the template puts before its first part
// is trained from where the prompt for it (`prompts_before`) ends: the model has to write it. Where
// the template writes something else than that prompt, or has none, what it puts before a plain
// answer too is not the model's.
// `rendered` must outlive the result.
std::vector<Segment> SplitSegments(const textkit::Rendered& rendered,
                                   const Conversation& conversation,
                                   const PromptsBefore& prompts_before);

}  // namespace lathe
