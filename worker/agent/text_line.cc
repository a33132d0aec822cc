#include "worker/agent/text_line.h"

#include <cstdint>
#include <utility>

namespace lathe::agent {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

// The length of the well-formed UTF-8 sequence that `text` starts with; 0 if there is none.
// Unicode 15, table 3-7.
size_t SequenceLength(absl::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0};
  };
  const auto continues = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return continues(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool overlong = first == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = first == 0xED && byte(1) > 0x9F;
    return continues(1) && continues(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool overlong = first == 0xF0 && byte(1) < 0x90;
    const bool too_large = first == 0xF4 && byte(1) > 0x8F;
    return continues(1) && continues(2) && continues(3) && !overlong && !too_large ? 4 : 0;
  }
  return 0;
}

bool IsControl(absl::string_view sequence) {
  const auto first = static_cast<uint8_t>(sequence[0]);
  if (sequence.size() == 1) return (first < 0x20 && first != '\t') || first == 0x7F;
  // U+0080 to U+009F: some terminals take them for escapes.
  return sequence.size() == 2 && first == 0xC2 && static_cast<uint8_t>(sequence[1]) < 0xA0;
}

}  // namespace

std::string CleanLine(absl::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  while (!text.empty()) {
    const size_t length = SequenceLength(text);
    const absl::string_view sequence = text.substr(0, length == 0 ? 1 : length);
    const bool bad = length == 0 || IsControl(sequence);
    const absl::string_view kept = bad ? kReplacement : sequence;
    clean.append(kept.data(), kept.size());
    text.remove_prefix(sequence.size());
  }
  return clean;
}

void LineSplitter::Add(absl::string_view bytes, Consumer consume) {
  while (!bytes.empty()) {
    const size_t end = bytes.find_first_of("\r\n");
    const size_t room = kMaxLineBytes - rest_.size();
    if (end == absl::string_view::npos && bytes.size() < room) {
      rest_.append(bytes.data(), bytes.size());
      return;
    }
    const bool whole = end != absl::string_view::npos && end <= room;
    const size_t taken = whole ? end : room;
    rest_.append(bytes.data(), taken);
    bytes.remove_prefix(whole ? taken + 1 : taken);
    Finish(consume);
  }
}

void LineSplitter::Finish(Consumer consume) {
  if (!rest_.empty()) consume(CleanLine(std::exchange(rest_, std::string())));
}

}  // namespace lathe::agent
