#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "lathe/internal/v1/agent.pb.h"
#include "worker/agent/transfers.h"

namespace lathe::agent {

namespace pb = ::lathe::internal::v1;

// Brings checkpoints of one training into the artifact store, one after the other, on a thread of
// its own. Of those that wait only the newest counts. Thread-safe.
class CheckpointRelay {
 public:
  struct Origin {
    std::string job_id;
    int64_t attempt = 1;
    std::filesystem::path folder;  // Where the child writes them.
  };
  using Publish = std::function<void(pb::SavedCheckpoint)>;
  CheckpointRelay(Transfers& transfers, Origin origin, Publish publish);
  // Drops what is not in the store yet.
  ~CheckpointRelay() = default;

  // The child says that this one is whole. One with a name that is no name is ignored.
  void Offer(const pb::CheckpointWritten& written);
  // Waits until all that were offered are stored or have failed, or for a stop: the next attempt
  // begins after the newest one.
  void Finish(const std::stop_token& stop);
  // The same whatever stops, for `timeout` at most.
  void FinishWithin(absl::Duration timeout);

 private:
  bool IsIdle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run(const std::stop_token& stop);
  absl::StatusOr<v1::FileTree> Store(const std::string& name, const std::stop_token& stop);
  void Upload(const pb::CheckpointWritten& written, const std::stop_token& stop);

  Transfers& transfers_;
  const Origin origin_;
  const Publish publish_;
  Mutex mu_;
  std::condition_variable_any changed_;
  bool uploading_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<pb::CheckpointWritten> waiting_ ABSL_GUARDED_BY(mu_);
  std::jthread thread_;
};

}  // namespace lathe::agent
