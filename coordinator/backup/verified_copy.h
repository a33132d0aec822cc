#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/blob_ref.h"

namespace lathe {

// How far a backup or restore is. Returns false to end it: Cancelled.
struct BackupProgress {
  std::string phase = {};  // "databases", "files".
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;  // 0: not known yet.
};
using OnBackupProgress = std::function<bool(const BackupProgress&)>;

// Reads `from` to its end, writing what it read to the new file `to` (mode 0600; not synced), and
// says what that was. `max_bytes`: what a growing file has beyond is left out.
absl::StatusOr<BlobRef> CopyHashed(const std::filesystem::path& from,
                                   const std::filesystem::path& to,
                                   int64_t max_bytes = std::numeric_limits<int64_t>::max());

// The same without a copy: what is in `path`.
absl::StatusOr<BlobRef> HashFile(const std::filesystem::path& path);

// DataLoss unless `got` is `wanted`; the message names `what`.
absl::Status RequireSame(const std::string& what, const BlobRef& wanted, const BlobRef& got);

}  // namespace lathe
