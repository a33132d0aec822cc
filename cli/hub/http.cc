#include "cli/hub/http.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace lathe::cli {
namespace {

constexpr int64_t kConnectSeconds = 20;
constexpr int64_t kStallSeconds = 60;  // Below one byte a second for so long: broken.
constexpr int64_t kMaxRedirects = 8;
constexpr int64_t kWhole = 200;  // Of a range it would be 206.

// What a transfer's callbacks need.
struct Transfer {
  std::function<bool(const char* data, size_t size)> sink;  // False: ends it.
  const std::function<bool()>* cancelled = nullptr;
  CURL* curl = nullptr;
};

int64_t ResponseCode(CURL* curl) {
  long code = 0;  // NOLINT(google-runtime-int): libcurl's type.
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
  return code;
}

// The body of an error page is not what was asked for.
size_t OnBody(char* data, size_t one, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (ResponseCode(transfer.curl) >= 300) return one * count;
  return transfer.sink(data, one * count) ? one * count : 0;
}

int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return (*static_cast<Transfer*>(user)->cancelled)() ? 1 : 0;
}

struct Handle {
  Handle() : curl(curl_easy_init()) {}
  ~Handle() {
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  CURL* curl;
  curl_slist* headers = nullptr;
};

void SetUp(Handle& handle, const std::string& url, const HttpOptions& options, Transfer& transfer) {
  CURL* curl = handle.curl;
  transfer.curl = curl;
  transfer.cancelled = &options.cancelled;
  const char* redirects = absl::StartsWith(url, "https:") ? "https" : "https,http";
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "https,http");
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, redirects);
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, kMaxRedirects);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, kStallSeconds);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "lathe");
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, OnBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, OnProgress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  if (options.token.empty()) return;
  const std::string header = absl::StrCat("Authorization: Bearer ", options.token);
  handle.headers = curl_slist_append(handle.headers, header.c_str());
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, handle.headers);
}

absl::Status OfCode(int64_t code, const std::string& url) {
  const std::string message = absl::StrCat(url, ": answers with HTTP ", code);
  if (code < 300) return absl::OkStatus();
  if (code == 401 || code == 403) return absl::PermissionDeniedError(message);
  if (code == 404) return absl::NotFoundError(message);
  if (code == 429 || code >= 500) return absl::UnavailableError(message);
  return absl::FailedPreconditionError(message);
}

absl::Status Perform(Handle& handle, const std::string& url, const HttpOptions& options) {
  const CURLcode result = curl_easy_perform(handle.curl);
  if (options.cancelled()) return absl::CancelledError("stopped; the same command goes on");
  LATHE_RETURN_IF_ERROR(OfCode(ResponseCode(handle.curl), url));
  if (result == CURLE_OK) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(url, ": ", curl_easy_strerror(result)));
}

// A file that grows at its end.
class PartialFile {
 public:
  static absl::StatusOr<PartialFile> Open(const std::filesystem::path& path) {
    UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": open"));
    const int64_t size = lseek(fd.get(), 0, SEEK_END);
    return PartialFile(path, std::move(fd), size);
  }

  int64_t size() const { return size_; }

  absl::Status Clear() {
    size_ = 0;
    if (ftruncate(fd_.get(), 0) == 0) return absl::OkStatus();
    return ErrnoToStatus(errno, absl::StrCat(path_.string(), ": truncate"));
  }

  absl::Status Append(const char* data, size_t count) {
    while (count > 0) {
      const ssize_t written = write(fd_.get(), data, count);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return ErrnoToStatus(errno, absl::StrCat(path_.string(), ": write"));
      data += written;
      count -= static_cast<size_t>(written);
      size_ += written;
    }
    return absl::OkStatus();
  }

 private:
  PartialFile(std::filesystem::path path, UniqueFd fd, int64_t size)
      : path_(std::move(path)), fd_(std::move(fd)), size_(size) {}
  std::filesystem::path path_;
  UniqueFd fd_;
  int64_t size_;
};

}  // namespace

absl::StatusOr<std::string> Http::GetText(const std::string& url, size_t max_bytes) const {
  std::string body;
  bool too_long = false;
  Transfer transfer;
  transfer.sink = [&](const char* data, size_t size) {
    too_long = body.size() + size > max_bytes;
    if (!too_long) body.append(data, size);
    return !too_long;
  };
  Handle handle;
  SetUp(handle, url, options_, transfer);
  const absl::Status status = Perform(handle, url, options_);
  if (too_long) {
    return absl::FailedPreconditionError(
        absl::StrCat(url, ": the answer is longer than ", max_bytes, " bytes"));
  }
  LATHE_RETURN_IF_ERROR(status);
  return body;
}

absl::Status Http::GetRest(const std::string& url, const std::filesystem::path& file, int64_t size,
                           const std::function<void(int64_t)>& progress) const {
  LATHE_ASSIGN_OR_RETURN(PartialFile partial, PartialFile::Open(file));
  if (partial.size() >= size) return absl::OkStatus();
  bool first = true;
  absl::Status error;
  Transfer transfer;
  transfer.sink = [&](const char* data, size_t count) {
    // A server that does not know ranges sends all of it.
    if (first && ResponseCode(transfer.curl) == kWhole) error = partial.Clear();
    first = false;
    if (partial.size() + static_cast<int64_t>(count) > size) {
      error = absl::DataLossError(absl::StrCat(url, ": sends more than ", size, " bytes"));
    }
    if (error.ok()) error = partial.Append(data, count);
    if (error.ok()) progress(partial.size());
    return error.ok();
  };
  Handle handle;
  SetUp(handle, url, options_, transfer);
  const std::string range = absl::StrCat(partial.size(), "-");
  curl_easy_setopt(handle.curl, CURLOPT_RANGE, range.c_str());
  const absl::Status status = Perform(handle, url, options_);
  LATHE_RETURN_IF_ERROR(error);
  LATHE_RETURN_IF_ERROR(status);
  if (partial.size() == size) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat(url, ": ended after ", partial.size(), " of ", size, " bytes"));
}

}  // namespace lathe::cli
