#include "coordinator/backup/backup.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/id.h"
#include "common/base/status.h"
#include "coordinator/store/sqlite_store.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

constexpr char kUnfinished[] = ".unfinished";

absl::StatusOr<UniqueFd> LockRoot(const fs::path& root) {
  LATHE_RETURN_IF_ERROR(MakeFolder(root, 0700));
  return LockFile(root / ".lock", absl::StrCat("backup: another one is being written to ",
                                               root.string(), "; wait for it"));
}

// Of processes that ended before theirs was complete. REQUIRES: the root is locked.
void RemoveUnfinished(const fs::path& root) {
  std::error_code error;
  std::set<fs::path> left;
  for (const auto& entry : fs::directory_iterator(root, error)) {
    if (absl::StartsWith(entry.path().filename().string(), kUnfinished)) left.insert(entry.path());
  }
  for (const fs::path& path : left) fs::remove_all(path, error);
}

// What a backup is made of, folder by folder. One use.
class Writer {
 public:
  Writer(const BackupSource& source, fs::path folder, const OnBackupProgress& on_progress)
      : source_(source), folder_(std::move(folder)), on_progress_(on_progress) {}

  absl::StatusOr<BackupManifest> Write(absl::Time now) {
    LATHE_RETURN_IF_ERROR(Tell());
    LATHE_RETURN_IF_ERROR(CopyDatabases());
    LATHE_ASSIGN_OR_RETURN(const std::set<std::string> blobs, InspectDatabases());
    LATHE_RETURN_IF_ERROR(HashDatabases());
    LATHE_RETURN_IF_ERROR(TakeBlobs(blobs));
    LATHE_RETURN_IF_ERROR(CopyLogs());
    std::sort(manifest_.files.begin(), manifest_.files.end(),
              [](const FileRef& a, const FileRef& b) { return a.path < b.path; });
    manifest_.schema = kSchemaVersion;
    manifest_.create_time = now;
    LATHE_RETURN_IF_ERROR(WriteManifest(folder_, manifest_));
    return std::move(manifest_);
  }

 private:
  absl::Status Tell() const {
    if (on_progress_(progress_)) return absl::OkStatus();
    return absl::CancelledError("backup: its caller has gone");
  }

  absl::Status Add(const fs::path& path, BlobRef blob) {
    progress_.bytes_done += blob.size;
    manifest_.files.push_back({path.string(), std::move(blob)});
    return Tell();
  }

  absl::Status CopyDatabases() {
    LATHE_RETURN_IF_ERROR(MakeFolder(folder_ / "db", 0700));
    return source_.store.CopyTo(folder_ / "db");
  }

  // The blobs that its rows name: those of the copy, not of the store that has gone on since.
  absl::StatusOr<std::set<std::string>> InspectDatabases() {
    LATHE_ASSIGN_OR_RETURN(const auto copy, SqliteStore::Open(folder_ / "db"));
    LATHE_ASSIGN_OR_RETURN(const auto counts, copy->CountJobs());
    for (const auto& [state, count] : counts) manifest_.jobs += count;
    return copy->ReferencedBlobs();
  }

  absl::Status HashDatabases() {
    for (const fs::path file : {"db/lathe.db", "db/steps.db"}) {
      LATHE_ASSIGN_OR_RETURN(BlobRef blob, HashFile(folder_ / file));
      LATHE_RETURN_IF_ERROR(Add(file, std::move(blob)));
    }
    return absl::OkStatus();
  }

  absl::Status TakeBlobs(const std::set<std::string>& blobs) {
    progress_.phase = "files";
    progress_.bytes_total = progress_.bytes_done;
    for (const std::string& sha256 : blobs) {
      progress_.bytes_total += source_.blobs.Stat(sha256).size;
    }
    for (const std::string& sha256 : blobs) LATHE_RETURN_IF_ERROR(TakeBlob(sha256));
    return absl::OkStatus();
  }

  // A blob is never written again, so a link is as good as a copy, and costs nothing.
  absl::Status TakeBlob(const std::string& sha256) {
    const fs::path path = fs::path("blobs") / "blobs" / sha256.substr(0, 2) / sha256;
    const fs::path to = folder_ / path;
    LATHE_ASSIGN_OR_RETURN(const fs::path from, source_.blobs.PathOf(sha256));
    LATHE_RETURN_IF_ERROR(MakeFolder(to.parent_path(), 0700));
    const bool linked = link(from.c_str(), to.c_str()) == 0;
    LATHE_ASSIGN_OR_RETURN(BlobRef blob, linked ? HashFile(to) : CopyHashed(from, to));
    const BlobRef named = {sha256, source_.blobs.Stat(sha256).size};
    LATHE_RETURN_IF_ERROR(RequireSame(absl::StrCat("blob ", from.string()), named, blob));
    return Add(path, std::move(blob));
  }

  // They grow meanwhile: as far as they were.
  absl::Status CopyLogs() {
    LATHE_RETURN_IF_ERROR(MakeFolder(folder_ / "logs", 0700));
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(source_.logs, error)) {
      if (!entry.is_regular_file()) continue;
      const fs::path path = fs::path("logs") / entry.path().filename();
      LATHE_ASSIGN_OR_RETURN(BlobRef blob, CopyHashed(entry.path(), folder_ / path,
                                                      static_cast<int64_t>(entry.file_size())));
      LATHE_RETURN_IF_ERROR(Add(path, std::move(blob)));
    }
    return error ? ErrnoToStatus(error.value(), absl::StrCat(source_.logs.string(), ": list"))
                 : absl::OkStatus();
  }

  const BackupSource& source_;
  const fs::path folder_;
  const OnBackupProgress& on_progress_;
  BackupProgress progress_{.phase = "databases"};
  BackupManifest manifest_;
};

}  // namespace

absl::StatusOr<BackupManifest> WriteBackup(const BackupSource& source, const fs::path& root,
                                           const std::string& name, absl::Time now,
                                           const OnBackupProgress& on_progress) {
  LATHE_RETURN_IF_ERROR(ValidateName("name of backup", name));
  LATHE_ASSIGN_OR_RETURN(const UniqueFd lock, LockRoot(root));
  RemoveUnfinished(root);
  std::error_code error;
  if (fs::exists(fs::symlink_status(root / name, error))) {
    return absl::AlreadyExistsError(absl::StrCat("backup '", name, "': there is one already in ",
                                                 root.string(), "; choose another name"));
  }
  LATHE_ASSIGN_OR_RETURN(TempFolder folder, TempFolder::Make(kUnfinished, root));
  LATHE_ASSIGN_OR_RETURN(BackupManifest manifest,
                         Writer(source, folder.path(), on_progress).Write(now));
  LATHE_RETURN_IF_ERROR(folder.PublishAs(root / name));
  return manifest;
}

}  // namespace lathe
