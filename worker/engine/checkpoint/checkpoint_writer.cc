#include "worker/engine/checkpoint/checkpoint_writer.h"

#include <exception>
#include <new>
#include <utility>

#include "common/base/log.h"
#include "common/base/status.h"

namespace lathe {
namespace {

// Memory that is not there and folders that change under an iterator are thrown.
absl::Status Guarded(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  }
  return absl::OkStatus();
}

}  // namespace

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
  // A second copy may not fit: then there is no checkpoint, and the training goes on.
  const absl::Status status = Guarded([&] { StartThread(state); });
  if (!status.ok()) End(status);
}

void CheckpointWriter::StartThread(const std::vector<TensorView>& state) {
  int64_t size = 0;
  for (const TensorView& view : state) size += static_cast<int64_t>(view.bytes.size());
  if (size > options_.max_copied_bytes) {
    thread_ =
        std::jthread([this, pending = PendingCheckpoint::Write(options_.folder, state)]() mutable {
          Run([&] { return std::move(pending); });
        });
    return;
  }
  thread_ = std::jthread([this, copy = CopyOf(state)] {
    Run([&] { return PendingCheckpoint::Write(options_.folder, copy.views); });
  });
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

absl::StatusOr<std::filesystem::path> CheckpointWriter::Publish(PendingCheckpoint pending,
                                                                CheckpointManifest manifest) const {
  LATHE_ASSIGN_OR_RETURN(std::filesystem::path dir, pending.Publish(std::move(manifest)));
  // The new one is there, whatever becomes of the old.
  const absl::Status status = KeepNewestCheckpoints(options_.folder, options_.keep);
  if (!status.ok()) LogWarning(status.ToString());
  return dir;
}

void CheckpointWriter::Run(const std::function<absl::StatusOr<PendingCheckpoint>()>& write) {
  std::optional<absl::StatusOr<PendingCheckpoint>> pending;
  absl::StatusOr<std::filesystem::path> outcome = absl::InternalError("nothing was written");
  absl::Status status = Guarded([&] { pending.emplace(write()); });
  if (status.ok()) status = pending->status();
  std::optional<CheckpointManifest> manifest = WaitForManifest();
  if (!manifest) return;
  if (status.ok()) {
    status = Guarded([&] { outcome = Publish(**std::move(pending), *std::move(manifest)); });
  }
  End(status.ok() ? std::move(outcome) : status);
}

void CheckpointWriter::End(absl::StatusOr<std::filesystem::path> outcome) {
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
