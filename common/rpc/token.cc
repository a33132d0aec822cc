#include "common/rpc/token.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace lathe {
namespace {

constexpr size_t kMinSecretBytes = 16;
constexpr size_t kMaxSecretBytes = 256;

absl::Status CheckFile(int fd, const std::string& name) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return ErrnoToStatus(errno, absl::StrCat("token file ", name));
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("token file ", name, ": is not a regular file"));
  }
  if ((info.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(absl::StrFormat(
        "token file %s: has mode %04o, so others than its owner may use it; run: chmod 600 %s",
        name, info.st_mode & 07777, name));
  }
  return absl::OkStatus();
}

absl::StatusOr<Token> ParseSecret(absl::string_view bytes, const std::string& name) {
  const absl::string_view line = absl::StripSuffix(absl::StripSuffix(bytes, "\n"), "\r");
  const bool printable =
      std::all_of(line.begin(), line.end(), [](char c) { return absl::ascii_isgraph(c); });
  if (!printable || line.size() < kMinSecretBytes || line.size() > kMaxSecretBytes) {
    return absl::InvalidArgumentError(absl::StrCat("token file ", name, ": must hold one line of ",
                                                   kMinSecretBytes, " to ", kMaxSecretBytes,
                                                   " printable characters without spaces"));
  }
  return Token(std::string(line));
}

}  // namespace

std::string Token::AuthorizationValue() const { return absl::StrCat("Bearer ", secret_); }

bool Token::Matches(absl::string_view authorization) const {
  const std::string expected = AuthorizationValue();
  return !secret_.empty() && expected.size() == authorization.size() &&
         CRYPTO_memcmp(expected.data(), authorization.data(), expected.size()) == 0;
}

absl::StatusOr<Token> ReadTokenFile(const std::filesystem::path& path) {
  const std::string name = path.string();
  // Non-blocking, so that a named pipe is refused and not waited for.
  const UniqueFd fd(open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat("token file ", name));
  LATHE_RETURN_IF_ERROR(CheckFile(fd.get(), name));
  std::array<char, kMaxSecretBytes + 4> buffer{};
  const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
  if (got < 0) return ErrnoToStatus(errno, absl::StrCat("token file ", name, ": read"));
  return ParseSecret(absl::string_view(buffer.data(), static_cast<size_t>(got)), name);
}

}  // namespace lathe
