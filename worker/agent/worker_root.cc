#include "worker/agent/worker_root.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/id.h"
#include "common/base/status.h"

namespace lathe::agent {
namespace {

namespace fs = std::filesystem;

// Guards against `--root /home`: what is in the folder must have been made by an agent.
absl::Status CheckIsOurs(const fs::path& path) {
  std::error_code error;
  if (fs::is_empty(path, error) || fs::exists(path / "lock", error)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "worker root ", path.string(),
      ": holds files that no worker made; give an empty folder or one that does not exist"));
}

absl::StatusOr<UniqueFd> LockRoot(const fs::path& path) {
  return LockFile(path / "lock", absl::StrCat("worker root ", path.string(),
                                              ": another lathe-worker uses it; give each its own "
                                              "--root"));
}

absl::StatusOr<std::string> ReadOrMakeId(const fs::path& file) {
  const absl::StatusOr<std::string> known = ReadFile(file, 256);
  if (known.ok()) {
    const absl::string_view id = absl::StripSuffix(*known, "\n");
    LATHE_RETURN_IF_ERROR(Annotate(ValidateName("worker id", id), file.string()));
    return std::string(id);
  }
  if (!absl::IsNotFound(known.status())) return known.status();
  const std::string id = WorkerId::New().value();
  LATHE_RETURN_IF_ERROR(WriteFileAtomically(file, absl::StrCat(id, "\n"), 0600));
  return id;
}

}  // namespace

absl::StatusOr<WorkerRoot> WorkerRoot::Open(const fs::path& path) {
  LATHE_RETURN_IF_ERROR(MakeFolder(path, 0700));
  LATHE_RETURN_IF_ERROR(CheckIsOurs(path));
  if (chmod(path.c_str(), 0700) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("worker root ", path.string(), ": chmod 0700"));
  }
  LATHE_ASSIGN_OR_RETURN(UniqueFd lock, LockRoot(path));
  std::error_code error;
  WorkerRoot root(fs::canonical(path, error), std::move(lock));
  if (error) return ErrnoToStatus(error.value(), absl::StrCat("worker root ", path.string()));
  LATHE_RETURN_IF_ERROR(root.Prepare());
  return root;
}

absl::Status WorkerRoot::Prepare() {
  std::error_code error;
  fs::remove_all(assignments(), error);
  if (error) return ErrnoToStatus(error.value(), absl::StrCat(assignments().string(), ": remove"));
  LATHE_RETURN_IF_ERROR(MakeFolder(assignments(), 0700));
  LATHE_RETURN_IF_ERROR(MakeFolder(cache(), 0700));
  LATHE_ASSIGN_OR_RETURN(worker_id_, ReadOrMakeId(path_ / "worker-id"));
  return absl::OkStatus();
}

}  // namespace lathe::agent
