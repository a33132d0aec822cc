#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/blob/blob_store.h"
#include "coordinator/backup/manifest.h"
#include "coordinator/backup/verified_copy.h"
#include "coordinator/store/store.h"

namespace lathe {

// Writes ROOT/NAME, laid out as a data folder: db/, blobs/, logs/, and the manifest. What was
// acknowledged before the call is in it; jobs go on meanwhile. Until all of it is on the disk and
// verified there is no ROOT/NAME. Credentials are not in it.
//
// InvalidArgument: not a name. AlreadyExists: there is a backup of that name. FailedPrecondition:
// another backup is under way. NotFound, DataLoss: a blob that a row names is missing, or has other
// bytes than its name says.
// Cancelled: `on_progress` said so.
//
// REQUIRES: no blob that a row names is removed meanwhile (Coordinator::KeptBlobs).
struct BackupSource {
  Store& store;
  BlobStore& blobs;
  std::filesystem::path logs;  // Of jobs.
};
absl::StatusOr<BackupManifest> WriteBackup(const BackupSource& source,
                                           const std::filesystem::path& root,
                                           const std::string& name, absl::Time now,
                                           const OnBackupProgress& on_progress);

}  // namespace lathe
