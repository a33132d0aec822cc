#pragma once

#include <filesystem>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lathe {

// A secret that proves who calls. It cannot be printed, logged or compared by accident.
class Token {
 public:
  Token() = default;
  explicit Token(std::string secret) : secret_(std::move(secret)) {}

  bool empty() const { return secret_.empty(); }

  // "Bearer SECRET": the value of the metadata "authorization".
  std::string AuthorizationValue() const;

  // Whether `authorization` is AuthorizationValue(), in a time that does not depend on where they
  // differ. An empty token matches nothing.
  bool Matches(absl::string_view authorization) const;

  // For the rare file or header that needs the secret itself.
  const std::string& RevealSecret() const { return secret_; }

 private:
  std::string secret_;
};

// Reads the secret in the first line of `path`. Refused, each with the command that fixes it: a
// missing file, one that is not regular, one that others than the owner may read, one that does
// not hold a single line of 16 to 256 printable characters without spaces.
absl::StatusOr<Token> ReadTokenFile(const std::filesystem::path& path);

}  // namespace lathe
