#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lathe::cli {

struct HttpOptions {
  std::string token;  // Sent as a bearer token to the first host only, never to a redirect's.
  std::function<bool()> cancelled = [] { return false; };
};

// HTTP(S) GET over libcurl; follows redirects, but from https to https only. Thread-compatible.
// Errors: PermissionDenied (401, 403), NotFound (404), Unavailable (no connection, a broken one,
// 429, 5xx: worth another try), Cancelled, FailedPrecondition (another answer).
class Http {
 public:
  explicit Http(HttpOptions options) : options_(std::move(options)) {}

  // The body. FailedPrecondition: it is longer than `max_bytes`.
  absl::StatusOr<std::string> GetText(const std::string& url, size_t max_bytes) const;

  // Appends the bytes from the file's present size up to `size` to it; asks for the rest only. What
  // came before an error stays, for the next try. `progress` gets the file's size.
  absl::Status GetRest(const std::string& url, const std::filesystem::path& file, int64_t size,
                       const std::function<void(int64_t)>& progress) const;

 private:
  const HttpOptions options_;
};

}  // namespace lathe::cli
