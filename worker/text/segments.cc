#include "worker/text/segments.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/strings/match.h"

namespace lathe {
namespace {

absl::string_view TextOf(const textkit::Rendered& rendered, const textkit::Segment& segment) {
  return absl::string_view(rendered.text.data(), rendered.text.size())
      .substr(segment.begin, segment.end - segment.begin);
}

class Splitter {
 public:
  Splitter(const textkit::Rendered& rendered, const Conversation& conversation,
           const PromptsBefore& prompts_before)
      : rendered_(rendered),
        conversation_(conversation),
        prompts_before_(prompts_before),
        message_after_(MessagesAfter(rendered)) {}

  std::vector<Segment> Split() {
    for (size_t i = 0; i < rendered_.segments.size(); ++i) {
      const textkit::Segment& segment = rendered_.segments[i];
      const absl::string_view text = TextOf(rendered_, segment);
      if (segment.message == kFromTemplate) {
        AddTemplate(text, message_after_[i]);
        continue;
      }
      const bool is_trained = segment.message >= 0 && IsTrained(segment.message);
      Add(text, segment.message, is_trained ? Training::kAll : Training::kNone);
      if (segment.message >= 0) last_message_ = segment.message;
      is_turn_open_ = is_trained;
    }
    return std::move(segments_);
  }

 private:
  void Add(absl::string_view text, int origin, Training training) {
    segments_.push_back({text, origin, training});
  }

  bool IsTrained(int message) const {
    if (message < 0) return false;
    const Message& from = conversation_[static_cast<size_t>(message)];
    return from.role == Role::kAssistant && from.trained;
  }

  // By segment: of the next text that is a message's, or -1.
  static std::vector<int> MessagesAfter(const textkit::Rendered& rendered) {
    std::vector<int> messages(rendered.segments.size(), -1);
    for (size_t i = messages.size(); i > 1; --i) {
      const int message = rendered.segments[i - 1].message;
      messages[i - 2] = message >= 0 ? message : messages[i - 1];
    }
    return messages;
  }

  // A template decides how many different texts it writes: each answer is rendered for them once.
  const std::vector<Prompt>& PromptsBeforeAnswer(int answer) {
    const auto known = prompts_.find(answer);
    if (known != prompts_.end()) return known->second;
    return prompts_[answer] = prompts_before_(static_cast<size_t>(answer));
  }

  void AddTemplate(absl::string_view text, int next) {
    const bool was_open = std::exchange(is_turn_open_, false);
    const bool is_inside = was_open && next == last_message_;
    const size_t prompt = IsTrained(next) ? PromptBytes(text, next, is_inside) : text.size();
    if (is_inside && prompt == text.size()) {
      Add(text, kFromTemplate, Training::kInside);
      is_turn_open_ = true;
      return;
    }
    if (prompt > 0) {
      Add(text.substr(0, prompt), kFromTemplate, was_open ? Training::kEndOfTurn : Training::kNone);
    }
    if (prompt < text.size()) Add(text.substr(prompt), kFromTemplate, Training::kAll);
  }

  // How much of the text before a part of answer `next` is the end of the prompt for it. Between
  // two parts it may be a prompt too: an answer of several turns.
  size_t PromptBytes(absl::string_view text, int next, bool is_inside) {
    const std::pair key(std::string(text.data(), text.size()), is_inside);
    const auto known = prompt_bytes_.find(key);
    if (known != prompt_bytes_.end()) return known->second;
    size_t bytes = text.size();
    for (Prompt prompt : PromptsBeforeAnswer(next)) {
      if (is_inside && prompt.is_guessed) continue;
      if (is_inside) prompt.last_message = last_message_;
      bytes = std::min(bytes, Fit(text, prompt));
    }
    return prompt_bytes_[key] = bytes;
  }

  size_t Fit(absl::string_view text, const Prompt& prompt) const {
    if (prompt.last_message != last_message_ || prompt.end.empty()) return text.size();
    if (absl::StartsWith(text, prompt.end)) return prompt.end.size();
    if (!prompt.is_only_guess) return text.size();
    const auto differ =
        std::mismatch(text.begin(), text.end(), prompt.end.begin(), prompt.end.end());
    const auto common = static_cast<size_t>(differ.first - text.begin());
    return common == 0 ? text.size() : WholeCharacters(text, common);
  }

  // Not in the middle of a character.
  static size_t WholeCharacters(absl::string_view text, size_t size) {
    const auto is_inside = [&](size_t at) {
      return (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80;
    };
    while (size > 0 && size < text.size() && is_inside(size)) --size;
    return size;
  }

  const textkit::Rendered& rendered_;
  const Conversation& conversation_;
  const PromptsBefore& prompts_before_;
  const std::vector<int> message_after_;
  std::vector<Segment> segments_;
  int last_message_ = -1;
  bool is_turn_open_ = false;  // The text of a trained answer came last.
  // By the text and whether it is inside an answer: most turns of a conversation look alike.
  std::map<std::pair<std::string, bool>, size_t> prompt_bytes_;
  std::map<int, std::vector<Prompt>> prompts_;  // By answer.
};

}  // namespace

Prompt EndOfPrompt(const textkit::Rendered& prompt) {
  if (prompt.segments.empty()) return {};
  const textkit::Segment& last = prompt.segments.back();
  Prompt found;
  if (last.message == kFromTemplate) {
    const absl::string_view text = TextOf(prompt, last);
    found.end.assign(text.data(), text.size());
  }
  for (const textkit::Segment& segment : prompt.segments) {
    if (segment.message >= 0) found.last_message = segment.message;
  }
  return found;
}

Prompt BeforeLastMessage(const textkit::Rendered& rendered, int last_message) {
  Prompt found;
  found.is_guessed = true;
  std::string text;
  for (const textkit::Segment& segment : rendered.segments) {
    if (segment.message == last_message) {
      found.end = std::move(text);
      return found;
    }
    if (segment.message >= 0) found.last_message = segment.message;
    const absl::string_view part = TextOf(rendered, segment);
    text.assign(part.data(), segment.message == kFromTemplate ? part.size() : 0);
  }
  return Prompt{};
}

std::vector<Prompt> NoPrompt(size_t /*index*/) { return {}; }

std::vector<Segment> SplitSegments(const textkit::Rendered& rendered,
                                   const Conversation& conversation,
                                   const PromptsBefore& prompts_before) {
  return Splitter(rendered, conversation, prompts_before).Split();
}

}  // namespace lathe
