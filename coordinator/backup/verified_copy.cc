#include "coordinator/backup/verified_copy.h"

#include <fcntl.h>

#include <cerrno>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

// Hashes and counts what `also` is given too.
absl::StatusOr<BlobRef> ReadThrough(const fs::path& from, int64_t max_bytes,
                                    absl::FunctionRef<absl::Status(absl::string_view)> also) {
  Sha256 hash;
  BlobRef blob;
  const auto sink = [&](absl::string_view bytes) {
    hash.Update(bytes);
    blob.size += static_cast<int64_t>(bytes.size());
    return also(bytes);
  };
  LATHE_RETURN_IF_ERROR(ReadInChunks(from, sink, max_bytes));
  blob.sha256 = hash.FinishHex();
  return blob;
}

}  // namespace

absl::StatusOr<BlobRef> CopyHashed(const fs::path& from, const fs::path& to, int64_t max_bytes) {
  const UniqueFd out(open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!out.valid()) return ErrnoToStatus(errno, absl::StrCat(to.string(), ": create"));
  return ReadThrough(from, max_bytes, [&](absl::string_view bytes) {
    return WriteAll(out.get(), bytes, to.string());
  });
}

absl::StatusOr<BlobRef> HashFile(const fs::path& path) {
  return ReadThrough(path, std::numeric_limits<int64_t>::max(),
                     [](absl::string_view /*bytes*/) { return absl::OkStatus(); });
}

absl::Status RequireSame(const std::string& what, const BlobRef& wanted, const BlobRef& got) {
  if (wanted == got) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(what, ": has ", got.size, " bytes of sha256 ", got.sha256,
                                          "; must have ", wanted.size, " of ", wanted.sha256,
                                          ": it is damaged"));
}

}  // namespace lathe
