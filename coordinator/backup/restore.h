#pragma once

#include <filesystem>

#include "absl/status/statusor.h"
#include "coordinator/backup/manifest.h"
#include "coordinator/backup/verified_copy.h"

namespace lathe {

// Copies a backup into a data folder that a coordinator can be started with. Every byte is verified
// before the folder is there.
//
// NotFound: `backup` is no backup. AlreadyExists: `data_dir` is neither new nor empty.
// FailedPrecondition: a newer program wrote the backup. DataLoss: a file is missing or a byte of it
// has changed. Cancelled: `on_progress` said so.
absl::StatusOr<BackupManifest> RestoreBackup(const std::filesystem::path& backup,
                                             const std::filesystem::path& data_dir,
                                             const OnBackupProgress& on_progress);

}  // namespace lathe
