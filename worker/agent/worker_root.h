#pragma once

#include <filesystem>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "common/base/file.h"

namespace lathe::agent {

// The worker's own folder, mode 0700: `worker-id` (the same after a restart), `lock`, `cache/`,
// `assignments/`. One agent at a time: the lock lives as long as this object. Thread-safe.
class WorkerRoot {
 public:
  // Makes it if need be and removes what an agent that was killed left in assignments/.
  // FailedPrecondition: another agent uses it. InvalidArgument: a folder with other things in it.
  static absl::StatusOr<WorkerRoot> Open(const std::filesystem::path& path);

  const std::string& worker_id() const { return worker_id_; }
  std::filesystem::path cache() const { return path_ / "cache"; }
  std::filesystem::path assignments() const { return path_ / "assignments"; }

 private:
  WorkerRoot(std::filesystem::path path, UniqueFd lock)
      : path_(std::move(path)), lock_(std::move(lock)) {}
  absl::Status Prepare();

  std::filesystem::path path_;
  UniqueFd lock_;
  std::string worker_id_;
};

}  // namespace lathe::agent
