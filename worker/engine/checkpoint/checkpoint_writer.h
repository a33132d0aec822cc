#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "worker/engine/checkpoint/checkpoint.h"

namespace lathe {

// Writes checkpoints beside the training, one at a time. Its methods are for one thread.
class CheckpointWriter {
 public:
  struct Options {
    std::filesystem::path folder;
    int keep = 2;  // The newest ones; the others are removed.
    // A larger state is not copied but written by the calling thread: a second copy of a whole
    // model is more than many machines have.
    int64_t max_copied_bytes = int64_t{512} << 20;
  };
  explicit CheckpointWriter(Options options) : options_(std::move(options)) {}
  ~CheckpointWriter();  // Drops a checkpoint that was not completed.
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // One is being written.
  bool busy() const;
  // Starts with the state as it is now; that it could not is an outcome. REQUIRES: !busy().
  void Begin(const std::vector<TensorView>& state);
  // What it is of, with its proof: from now on it can be published. REQUIRES: Begin() came before.
  void Complete(CheckpointManifest manifest);
  // The outcome of a checkpoint that nobody has taken yet: its folder, or why there is none.
  std::optional<absl::StatusOr<std::filesystem::path>> TakeOutcome();
  // Until nothing is being written. REQUIRES: the last one was completed.
  void Wait();

 private:
  // Bytes that the training may change meanwhile.
  struct Copy {
    std::vector<TensorView> views;
    std::vector<std::string> bytes;
  };
  static Copy CopyOf(const std::vector<TensorView>& state);
  void StartThread(const std::vector<TensorView>& state);
  // On the thread of one checkpoint.
  void Run(const std::function<absl::StatusOr<PendingCheckpoint>()>& write);
  void End(absl::StatusOr<std::filesystem::path> outcome);
  std::optional<CheckpointManifest> WaitForManifest();
  absl::StatusOr<std::filesystem::path> Publish(PendingCheckpoint pending,
                                                CheckpointManifest manifest) const;

  const Options options_;
  std::jthread thread_;
  mutable Mutex mutex_;
  std::condition_variable_any changed_;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool dropped_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<CheckpointManifest> manifest_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::StatusOr<std::filesystem::path>> outcome_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lathe
