#include "coordinator/backup/verified_copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunkBytes = size_t{1} << 20;

absl::Status WriteAll(const UniqueFd& fd, absl::string_view bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": write"));
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// `out`: nothing is written if it is not valid.
absl::StatusOr<BlobRef> ReadThrough(const fs::path& from, const UniqueFd& out, const fs::path& to,
                                    int64_t max_bytes) {
  const UniqueFd in(open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!in.valid()) return ErrnoToStatus(errno, absl::StrCat(from.string(), ": open"));
  Sha256 hash;
  BlobRef blob;
  std::string chunk(kChunkBytes, '\0');
  while (max_bytes < 0 || blob.size < max_bytes) {
    const size_t room = max_bytes < 0
                            ? chunk.size()
                            : std::min(chunk.size(), static_cast<size_t>(max_bytes - blob.size));
    const ssize_t got = read(in.get(), chunk.data(), room);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoToStatus(errno, absl::StrCat(from.string(), ": read"));
    if (got == 0) break;
    const absl::string_view bytes(chunk.data(), static_cast<size_t>(got));
    hash.Update(bytes);
    blob.size += got;
    if (out.valid()) LATHE_RETURN_IF_ERROR(WriteAll(out, bytes, to));
  }
  blob.sha256 = hash.FinishHex();
  return blob;
}

}  // namespace

absl::StatusOr<BlobRef> CopyHashed(const fs::path& from, const fs::path& to, int64_t max_bytes) {
  const UniqueFd out(open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!out.valid()) return ErrnoToStatus(errno, absl::StrCat(to.string(), ": create"));
  return ReadThrough(from, out, to, max_bytes);
}

absl::StatusOr<BlobRef> HashFile(const fs::path& path) {
  return ReadThrough(path, UniqueFd(), path, -1);
}

absl::Status RequireSame(const std::string& what, const BlobRef& wanted, const BlobRef& got) {
  if (wanted == got) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(what, ": has ", got.size, " bytes of sha256 ", got.sha256,
                                          "; must have ", wanted.size, " of ", wanted.sha256,
                                          ": it is damaged"));
}

}  // namespace lathe
