#include "coordinator/backup/restore.h"

#include <sys/stat.h>

#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "coordinator/store/sqlite_store.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

absl::Status RestoreFile(const fs::path& backup, const FileRef& file, const fs::path& folder) {
  const fs::path to = folder / file.path;
  LATHE_RETURN_IF_ERROR(MakeFolder(to.parent_path(), 0700));
  const auto got = CopyHashed(backup / file.path, to);
  const std::string what = absl::StrCat("backup ", backup.string(), ": file ", file.path);
  if (absl::IsNotFound(got.status())) {
    return absl::DataLossError(absl::StrCat(what, ": is missing; take another backup"));
  }
  if (!got.ok()) return got.status();
  LATHE_RETURN_IF_ERROR(RequireSame(what, file.blob, *got));
  // As the artifact store keeps them.
  const bool is_blob = absl::StartsWith(file.path, "blobs/");
  if (is_blob && chmod(to.c_str(), 0400) != 0) {
    return ErrnoToStatus(errno, absl::StrCat(to.string(), ": chmod"));
  }
  return absl::OkStatus();
}

// Without a slash at its end, which would make it its own parent.
fs::path Normal(const fs::path& path) {
  const fs::path normal = fs::absolute(path).lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

}  // namespace

absl::StatusOr<BackupManifest> RestoreBackup(const fs::path& backup,
                                             const fs::path& data_dir_as_given,
                                             const OnBackupProgress& on_progress) {
  const fs::path data_dir = Normal(data_dir_as_given);
  LATHE_ASSIGN_OR_RETURN(BackupManifest manifest, ReadManifest(backup));
  LATHE_RETURN_IF_ERROR(Annotate(RequireNewOrEmptyFolder(data_dir), "data folder"));
  LATHE_RETURN_IF_ERROR(MakeFolder(data_dir.parent_path(), 0700));
  LATHE_ASSIGN_OR_RETURN(TempFolder folder, TempFolder::Make(".restore", data_dir.parent_path()));
  BackupProgress progress{.phase = "files", .bytes_total = manifest.TotalBytes()};
  for (const FileRef& file : manifest.files) {
    if (!on_progress(progress)) return absl::CancelledError("restore: was told to end");
    LATHE_RETURN_IF_ERROR(RestoreFile(backup, file, folder.path()));
    progress.bytes_done += file.blob.size;
  }
  // It must open, and so an older schema is brought forward here and not at the start.
  LATHE_RETURN_IF_ERROR(SqliteStore::Open(folder.path() / "db").status());
  LATHE_RETURN_IF_ERROR(folder.PublishAs(data_dir));
  on_progress(progress);
  return manifest;
}

}  // namespace lathe
