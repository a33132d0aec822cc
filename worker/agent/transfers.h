#pragma once

#include <condition_variable>
#include <filesystem>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "lathe/internal/v1/agent.pb.h"
#include "worker/agent/agent_probe.h"
#include "worker/agent/blob_cache.h"
#include "worker/agent/coordinator_channel.h"

namespace lathe::agent {

// Whether the agent has a session whose lease is fresh. Nothing is published without one: an agent
// that hears nothing for two thirds of its lease closes the session itself. Thread-safe.
class SessionGate {
 public:
  void SetOpen(bool open);
  // Waits until open; false: stopped, or `timeout` has passed.
  bool Wait(absl::Duration timeout, const std::stop_token& stop);
  // Waits for `duration`, for the gate to open anew, or for a stop.
  void Pause(absl::Duration duration, const std::stop_token& stop);

 private:
  Mutex mu_;
  std::condition_variable_any changed_;
  bool open_ ABSL_GUARDED_BY(mu_) = false;
  int64_t num_openings_ ABSL_GUARDED_BY(mu_) = 0;
};

// Bytes between the coordinator's store and this worker. A broken transfer goes on where it
// stopped, for as long as the coordinator comes back within `patience`. Thread-safe.
class Transfers {
 public:
  Transfers(CoordinatorChannel& channel, SessionGate& gate, BlobCache& cache, AgentProbe& probe,
            absl::Duration patience)
      : channel_(channel), gate_(gate), cache_(cache), probe_(probe), patience_(patience) {}

  // Fetches each file of the tree and lays them out in `folder`. `rehash`: of what the cache has.
  // InvalidArgument: ValidateTree.
  absl::Status FetchTree(const v1::FileTree& tree, const std::filesystem::path& folder,
                         Rehash rehash, const std::stop_token& stop);

  // Uploads the files below `folder` for an attempt of a job; all are in the store when it returns.
  absl::StatusOr<v1::FileTree> UploadFolder(const std::filesystem::path& folder,
                                            const std::string& job_id, int64_t attempt,
                                            const std::stop_token& stop);

 private:
  absl::Status FetchFile(const v1::FileRef& file, const std::filesystem::path& target,
                         Rehash rehash, const std::stop_token& stop);
  absl::Status UploadOnce(int fd, pb::UploadBlobStart start, const std::stop_token& stop);
  absl::Status Retry(absl::FunctionRef<absl::Status()> attempt, const std::stop_token& stop);

  CoordinatorChannel& channel_;
  SessionGate& gate_;
  BlobCache& cache_;
  AgentProbe& probe_;
  const absl::Duration patience_;
};

}  // namespace lathe::agent
