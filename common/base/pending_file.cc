#include "common/base/pending_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace lathe {

namespace fs = std::filesystem;

PendingFile::PendingFile(fs::path path, fs::path temp, UniqueFd fd)
    : path_(std::move(path)), temp_(std::move(temp)), fd_(std::move(fd)) {}

PendingFile::PendingFile(PendingFile&& other) noexcept
    : path_(std::move(other.path_)),
      temp_(std::exchange(other.temp_, fs::path())),
      fd_(std::move(other.fd_)) {}

PendingFile::~PendingFile() {
  if (!temp_.empty()) unlink(temp_.c_str());
}

absl::StatusOr<PendingFile> PendingFile::Create(const fs::path& path) {
  fs::path temp =
      path.parent_path() / absl::StrCat(".", path.filename().string(), ".", getpid(), ".tmp");
  unlink(temp.c_str());
  UniqueFd fd(open(temp.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat(temp.string(), ": create"));
  return PendingFile(path, std::move(temp), std::move(fd));
}

absl::Status PendingFile::Append(absl::string_view bytes) {
  return WriteAll(fd_.get(), bytes, path_.string());
}

absl::Status PendingFile::Publish() {
  if (fsync(fd_.get()) != 0) return ErrnoToStatus(errno, absl::StrCat(path_.string(), ": fsync"));
  if (rename(temp_.c_str(), path_.c_str()) != 0) {
    return ErrnoToStatus(errno, absl::StrCat(path_.string(), ": rename"));
  }
  temp_.clear();
  fd_.Reset();
  return FsyncFolder(path_.has_parent_path() ? path_.parent_path() : fs::path("."));
}

}  // namespace lathe
