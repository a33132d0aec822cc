#include "common/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/exit_codes.h"
#include "common/base/status.h"
#include "common/fault/fault.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunkBytes = size_t{1} << 20;

absl::Status WriteTemporary(const fs::path& temp, absl::string_view bytes, unsigned mode) {
  const UniqueFd fd(open(temp.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat(temp.string(), ": create"));
  LATHE_RETURN_IF_ERROR(fault::Hit("file.write"));
  LATHE_RETURN_IF_ERROR(WriteAll(fd.get(), bytes, temp.string()));
  LATHE_RETURN_IF_ERROR(fault::Hit("file.fsync"));
  if (fchmod(fd.get(), mode) != 0)
    return ErrnoToStatus(errno, absl::StrCat(temp.string(), ": chmod"));
  if (fsync(fd.get()) != 0) return ErrnoToStatus(errno, absl::StrCat(temp.string(), ": fsync"));
  return absl::OkStatus();
}

absl::Status FsyncPath(const fs::path& path, int flags) {
  const UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": open"));
  if (fsync(fd.get()) != 0) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": fsync"));
  return absl::OkStatus();
}

}  // namespace

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = other.Release();
  }
  return *this;
}

int UniqueFd::Release() { return std::exchange(fd_, -1); }

void UniqueFd::Reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::Status ErrnoToStatus(int error, absl::string_view context) {
  const std::string message = absl::StrCat(context, ": ", std::strerror(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return MarkDiskFull(absl::ResourceExhaustedError(message));
    case ENOENT:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(message);
    case EEXIST:
      return absl::AlreadyExistsError(message);
    default:
      return absl::InternalError(message);
  }
}

absl::Status WriteAll(int fd, absl::string_view bytes, absl::string_view what) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoToStatus(errno, absl::StrCat(what, ": write"));
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status ReadInChunks(const fs::path& path,
                          absl::FunctionRef<absl::Status(absl::string_view)> sink,
                          int64_t max_bytes) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": open"));
  std::string chunk(kChunkBytes, '\0');
  while (max_bytes > 0) {
    const ssize_t got =
        read(fd.get(), chunk.data(), std::min(chunk.size(), static_cast<size_t>(max_bytes)));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": read"));
    if (got == 0) break;
    LATHE_RETURN_IF_ERROR(sink(absl::string_view(chunk).substr(0, static_cast<size_t>(got))));
    max_bytes -= got;
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> LockFile(const fs::path& path, absl::string_view busy) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": open"));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  return absl::FailedPreconditionError(busy);
}

bool IsPathBelow(absl::string_view path) {
  if (path.empty() || path.find('\0') != absl::string_view::npos) return false;
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

absl::StatusOr<std::string> ReadFile(const fs::path& path, size_t max_bytes) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": open"));
  struct stat info {};
  if (fstat(fd.get(), &info) != 0)
    return ErrnoToStatus(errno, absl::StrCat(path.string(), ": stat"));
  if (!S_ISREG(info.st_mode))
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": is not a regular file"));
  if (static_cast<size_t>(info.st_size) > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": has ", info.st_size,
                                                   " bytes; at most ", max_bytes, " are allowed"));
  }
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = read(fd.get(), bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": read"));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

absl::Status WriteFileAtomically(const fs::path& path, absl::string_view bytes, unsigned mode) {
  const fs::path temp =
      path.parent_path() / absl::StrCat(".", path.filename().string(), ".", getpid(), ".tmp");
  unlink(temp.c_str());
  absl::Status status = WriteTemporary(temp, bytes, mode);
  if (status.ok()) status = fault::Hit("file.rename");
  if (status.ok() && rename(temp.c_str(), path.c_str()) != 0) {
    status = ErrnoToStatus(errno, absl::StrCat(path.string(), ": rename"));
  }
  if (!status.ok()) {
    unlink(temp.c_str());
    return status;
  }
  LATHE_RETURN_IF_ERROR(fault::Hit("file.renamed"));
  return FsyncFolder(path.has_parent_path() ? path.parent_path() : fs::path("."));
}

absl::Status FsyncFile(const fs::path& path) { return FsyncPath(path, O_RDONLY); }
absl::Status FsyncFolder(const fs::path& path) { return FsyncPath(path, O_RDONLY | O_DIRECTORY); }

absl::Status MakeFolder(const fs::path& path, unsigned mode) {
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  if (error)
    return ErrnoToStatus(error.value(), absl::StrCat(path.parent_path().string(), ": mkdir"));
  if (mkdir(path.c_str(), mode) == 0) return absl::OkStatus();
  if (errno == EEXIST && fs::is_directory(path, error)) return absl::OkStatus();
  return ErrnoToStatus(errno, absl::StrCat(path.string(), ": mkdir"));
}

absl::Status RequireNewOrEmptyFolder(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (!fs::exists(status)) return absl::OkStatus();
  if (fs::is_directory(status) && fs::is_empty(path, error)) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat(path.string(), ": is there already; must be a new or an empty folder"));
}

absl::StatusOr<TempFolder> TempFolder::Make(absl::string_view prefix, const fs::path& parent) {
  std::error_code error;
  const fs::path base = parent.empty() ? fs::temp_directory_path(error) : parent;
  std::string pattern = (base / absl::StrCat(prefix, ".XXXXXX")).string();
  if (mkdtemp(pattern.data()) == nullptr)
    return ErrnoToStatus(errno, absl::StrCat(pattern, ": mkdtemp"));
  return TempFolder(fs::path(pattern));
}

TempFolder::TempFolder(TempFolder&& other) noexcept : path_(std::move(other.path_)) {
  other.path_.clear();
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

absl::Status TempFolder::PublishAs(const fs::path& target) {
  std::error_code error;
  LATHE_RETURN_IF_ERROR(fault::Hit("folder.fsync"));
  for (const auto& entry : fs::recursive_directory_iterator(path_, error)) {
    LATHE_RETURN_IF_ERROR(entry.is_directory() ? FsyncFolder(entry.path())
                                               : FsyncFile(entry.path()));
  }
  if (error) return ErrnoToStatus(error.value(), absl::StrCat(path_.string(), ": list"));
  LATHE_RETURN_IF_ERROR(FsyncFolder(path_));
  LATHE_RETURN_IF_ERROR(fault::Hit("folder.rename"));
  if (rename(path_.c_str(), target.c_str()) != 0) {
    return ErrnoToStatus(errno, absl::StrCat(target.string(), ": rename"));
  }
  path_.clear();
  LATHE_RETURN_IF_ERROR(fault::Hit("folder.renamed"));
  return FsyncFolder(target.parent_path());
}

}  // namespace lathe
