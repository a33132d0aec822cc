#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/core/records.h"

// What a backup says of itself. It is written last: a folder without it is no backup.
//
//   manifest.json     every file with its size and sha256, and the versions
//   manifest.sha256   "SHA256  manifest.json\n", as sha256sum writes and checks it

namespace lathe {

inline constexpr int64_t kBackupFormat = 1;

struct BackupManifest {
  int64_t format = kBackupFormat;
  int64_t schema = 0;  // Of the databases: kSchemaVersion of the program that wrote them.
  absl::Time create_time = absl::UnixEpoch();
  int64_t jobs = 0;  // Rows, ended ones included.
  FileTree files;    // Sorted by path; all but the manifest itself.

  int64_t TotalBytes() const;
};

// Writes and syncs both files.
absl::Status WriteManifest(const std::filesystem::path& folder, const BackupManifest& manifest);

// NotFound: the folder is no backup. DataLoss: the manifest is damaged. FailedPrecondition: it is
// of a newer program. Paths of the files are checked: relative, and below the folder.
absl::StatusOr<BackupManifest> ReadManifest(const std::filesystem::path& folder);

}  // namespace lathe
