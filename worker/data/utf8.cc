#include "worker/data/utf8.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace lathe {
namespace {

bool InRange(uint8_t byte, uint8_t low, uint8_t high) { return byte >= low && byte <= high; }

// Bytes of the well-formed character that starts at `at`; 0 if there is none.
size_t CharacterBytes(absl::string_view text, size_t at) {
  const auto byte = [&](size_t i) -> uint8_t {
    return at + i < text.size() ? static_cast<uint8_t>(text[at + i]) : uint8_t{0};
  };
  const auto tail = [&](size_t i) { return InRange(byte(i), 0x80, 0xBF); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (InRange(lead, 0xC2, 0xDF)) return tail(1) ? 2 : 0;
  if (InRange(lead, 0xE0, 0xEF)) {
    // Neither overlong forms nor surrogates.
    const bool second = InRange(byte(1), lead == 0xE0 ? 0xA0 : 0x80, lead == 0xED ? 0x9F : 0xBF);
    return second && tail(2) ? 3 : 0;
  }
  if (InRange(lead, 0xF0, 0xF4)) {
    const bool second = InRange(byte(1), lead == 0xF0 ? 0x90 : 0x80, lead == 0xF4 ? 0x8F : 0xBF);
    return second && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

size_t FindInvalidUtf8(absl::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const size_t bytes = CharacterBytes(text, at);
    if (bytes == 0) return at;
    at += bytes;
  }
  return absl::string_view::npos;
}

std::string OneLine(absl::string_view text, size_t max_bytes) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    const size_t bytes = CharacterBytes(text, at);
    if (at + (bytes == 0 ? 1 : bytes) > max_bytes) return out + "...";
    const auto lead = static_cast<uint8_t>(text[at]);
    if (bytes == 0 || lead < 0x20 || lead == 0x7F) {
      out += '?';
      ++at;
      continue;
    }
    out.append(text.substr(at, bytes).data(), bytes);
    at += bytes;
  }
  return out;
}

std::string Quoted(absl::string_view text, size_t max_bytes) {
  return absl::StrCat("'", OneLine(text, max_bytes), "'");
}

}  // namespace lathe
