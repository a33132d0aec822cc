#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include "absl/strings/string_view.h"

#include "absl/status/statusor.h"

namespace lathe {

// Streaming SHA-256. Thread-compatible.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(absl::string_view bytes);
  // 64 lower-case hexadecimal digits. REQUIRES: called once, last.
  std::string FinishHex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string Sha256Hex(absl::string_view bytes);
// NotFound: there is no such file. Other errors are the disk's.
absl::StatusOr<std::string> Sha256OfFile(const std::filesystem::path& path);

}  // namespace lathe
