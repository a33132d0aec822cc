#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Files as the rest of the code needs them: whole or not there at all.

namespace lathe {

// An open descriptor, closed on destruction. Movable, not copyable.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int Release();
  void Reset();

 private:
  int fd_ = -1;
};

// errno as a Status: ENOSPC and EDQUOT become ResourceExhausted, marked as IsDiskFull() asks,
// ENOENT NotFound, EACCES PermissionDenied, EEXIST AlreadyExists, everything else Internal. The
// message is "context: strerror".
absl::Status ErrnoToStatus(int error, absl::string_view context);

// All of `bytes`, however often the kernel takes a part. Errors begin with `what`.
absl::Status WriteAll(int fd, absl::string_view bytes, absl::string_view what);

// Gives the bytes of a file to `sink` one after the other, at most 1 MiB at a time; ends with its
// error. `max_bytes`: what comes after is left out.
absl::Status ReadInChunks(const std::filesystem::path& path,
                          absl::FunctionRef<absl::Status(absl::string_view)> sink,
                          int64_t max_bytes = std::numeric_limits<int64_t>::max());

// Opens the file, made if it is not there (mode 0600; not through a link), and locks it until the
// descriptor is closed. FailedPrecondition with `busy`: another process has locked it.
absl::StatusOr<UniqueFd> LockFile(const std::filesystem::path& path, absl::string_view busy);

// Whether a relative path with '/' between its parts stays below the folder it is put in.
bool IsPathBelow(absl::string_view path);

// Refuses files over max_bytes with InvalidArgument before reading them.
absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path,
                                     size_t max_bytes = size_t{1} << 30);

// Writes a temporary file beside `path`, fsyncs it, renames it over `path` and fsyncs the folder.
// After an error `path` is as it was and the temporary file is gone. `mode` holds whatever the
// umask is.
absl::Status WriteFileAtomically(const std::filesystem::path& path, absl::string_view bytes,
                                 unsigned mode = 0644);

absl::Status FsyncFile(const std::filesystem::path& path);
absl::Status FsyncFolder(const std::filesystem::path& path);

// Creates the folder and its parents; the last one gets `mode`.
absl::Status MakeFolder(const std::filesystem::path& path, unsigned mode = 0755);

// AlreadyExists unless `path` does not exist or is an empty folder (not a link to one).
absl::Status RequireNewOrEmptyFolder(const std::filesystem::path& path);

// Removes it with everything below on destruction. Made under `parent` (default: the system's
// folder).
class TempFolder {
 public:
  static absl::StatusOr<TempFolder> Make(absl::string_view prefix,
                                         const std::filesystem::path& parent = {});
  TempFolder(TempFolder&& other) noexcept;
  TempFolder& operator=(TempFolder&&) = delete;
  ~TempFolder();
  const std::filesystem::path& path() const { return path_; }
  // Renames the folder to `target` after fsync of all its files: from then on it is not removed.
  absl::Status PublishAs(const std::filesystem::path& target);

 private:
  explicit TempFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace lathe
