#include "worker/engine/checkpoint/checkpoint_writer.h"

#include <utility>

#include "common/base/status.h"

namespace lathe {

CheckpointWriter::~CheckpointWriter() {
  {
    MutexLock lock(mutex_);
    dropped_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

bool CheckpointWriter::busy() const {
  MutexLock lock(mutex_);
  return busy_;
}

CheckpointWriter::Copy CheckpointWriter::CopyOf(const std::vector<TensorView>& state) {
  Copy copy;
  for (const TensorView& view : state) copy.bytes.emplace_back(view.bytes);
  for (size_t i = 0; i < state.size(); ++i) {
    copy.views.push_back({state[i].name, state[i].dtype, state[i].shape, copy.bytes[i]});
  }
  return copy;
}

void CheckpointWriter::Begin(const std::vector<TensorView>& state) {
  if (thread_.joinable()) thread_.join();
  {
    MutexLock lock(mutex_);
    busy_ = true;
    manifest_.reset();
  }
  int64_t size = 0;
  for (const TensorView& view : state) size += static_cast<int64_t>(view.bytes.size());
  if (size > options_.max_copied_bytes) {
    thread_ =
        std::jthread([this, pending = PendingCheckpoint::Write(options_.folder, state)]() mutable {
          Run(std::move(pending));
        });
    return;
  }
  thread_ = std::jthread(
      [this, copy = CopyOf(state)] { Run(PendingCheckpoint::Write(options_.folder, copy.views)); });
}

void CheckpointWriter::Complete(CheckpointManifest manifest) {
  MutexLock lock(mutex_);
  manifest_ = std::move(manifest);
  changed_.notify_all();
}

std::optional<CheckpointManifest> CheckpointWriter::WaitForManifest() {
  MutexLock lock(mutex_);
  while (!manifest_ && !dropped_) changed_.wait(lock);
  return std::exchange(manifest_, std::nullopt);
}

absl::StatusOr<std::filesystem::path> CheckpointWriter::Publish(
    absl::StatusOr<PendingCheckpoint>& pending, CheckpointManifest manifest) const {
  LATHE_RETURN_IF_ERROR(pending.status());
  LATHE_ASSIGN_OR_RETURN(std::filesystem::path dir, pending->Publish(std::move(manifest)));
  LATHE_RETURN_IF_ERROR(KeepNewestCheckpoints(options_.folder, options_.keep));
  return dir;
}

void CheckpointWriter::Run(absl::StatusOr<PendingCheckpoint> pending) {
  std::optional<CheckpointManifest> manifest = WaitForManifest();
  if (!manifest) return;
  absl::StatusOr<std::filesystem::path> outcome = Publish(pending, *std::move(manifest));
  MutexLock lock(mutex_);
  outcome_ = std::move(outcome);
  busy_ = false;
  changed_.notify_all();
}

std::optional<absl::StatusOr<std::filesystem::path>> CheckpointWriter::TakeOutcome() {
  MutexLock lock(mutex_);
  return std::exchange(outcome_, std::nullopt);
}

void CheckpointWriter::Wait() {
  MutexLock lock(mutex_);
  while (busy_) changed_.wait(lock);
}

}  // namespace lathe
