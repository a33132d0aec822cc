#include "common/base/id.h"

#include <sys/random.h>

#include <array>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace lathe {
namespace {

template <size_t N>
std::array<uint8_t, N> RandomBytes() {
  std::array<uint8_t, N> bytes{};
  // Up to 256 bytes getrandom never returns short once the pool is ready.
  if (getrandom(bytes.data(), N, 0) != static_cast<ssize_t>(N)) std::abort();
  return bytes;
}

bool IsNameCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

}  // namespace

std::string NewUlid() {
  constexpr absl::string_view kAlphabet = "0123456789abcdefghjkmnpqrstvwxyz";
  const auto random = RandomBytes<10>();
  auto millis = static_cast<uint64_t>(absl::ToUnixMillis(absl::Now()));
  std::string out(26, '0');
  for (int i = 9; i >= 0; --i, millis >>= 5) out[static_cast<size_t>(i)] = kAlphabet[millis & 31];
  uint32_t buffer = 0;
  int bits = 0;
  size_t next = 10;
  for (const uint8_t byte : random) {
    buffer = (buffer << 8) | byte;
    for (bits += 8; bits >= 5; bits -= 5) out[next++] = kAlphabet[(buffer >> (bits - 5)) & 31];
  }
  return out;
}

std::string NewToken() {
  std::string out;
  for (const uint8_t byte : RandomBytes<32>())
    absl::StrAppend(&out, absl::Hex(byte, absl::kZeroPad2));
  return out;
}

absl::Status ValidateName(absl::string_view what, absl::string_view name) {
  bool good =
      !name.empty() && name.size() <= 63 && name[0] != '-' && name[0] != '.' && name[0] != '_';
  for (const char c : name) good = good && IsNameCharacter(c);
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      what, " is '", name.substr(0, 80),
      "'; allowed are 1 to 63 of a-z, 0-9, '-', '.', '_', starting with a letter or digit"));
}

}  // namespace lathe
