#include "worker/agent/checkpoint_relay.h"

#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "worker/agent/file_tree.h"

namespace lathe::agent {
namespace {

// As worker/engine/checkpoint writes it. What else lies there is not sent, nor is what a link leads
// to.
absl::Status CheckFolder(const std::filesystem::path& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(std::filesystem::symlink_status(folder, error))) {
    return absl::FailedPreconditionError("is not a folder");
  }
  LATHE_ASSIGN_OR_RETURN(const std::vector<std::string> files, ListOutputs(folder));
  if (files == std::vector<std::string>{"manifest.json", "state.safetensors"}) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "has ", files.size(), " files; must have manifest.json and state.safetensors alone"));
}

}  // namespace

CheckpointRelay::CheckpointRelay(Transfers& transfers, Origin origin, Publish publish)
    : transfers_(transfers), origin_(std::move(origin)), publish_(std::move(publish)) {
  thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
}

void CheckpointRelay::Offer(const pb::CheckpointWritten& written) {
  // It becomes a path.
  if (const absl::Status status = ValidateName("checkpoint", written.name()); !status.ok()) {
    return LogWarning(absl::StrCat(origin_.job_id, ": ", status.message()));
  }
  MutexLock lock(mu_);
  waiting_ = written;
  changed_.notify_all();
}

bool CheckpointRelay::IsIdle() const { return !uploading_ && !waiting_.has_value(); }

void CheckpointRelay::Finish(const std::stop_token& stop) {
  MutexLock lock(mu_);
  changed_.wait(lock, stop, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return IsIdle(); });
}

void CheckpointRelay::FinishWithin(absl::Duration timeout) {
  MutexLock lock(mu_);
  changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout),
                    [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return IsIdle(); });
}

void CheckpointRelay::Run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    pb::CheckpointWritten next;
    {
      MutexLock lock(mu_);
      if (!changed_.wait(lock, stop, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
            return waiting_.has_value();
          })) {
        return;
      }
      next = std::exchange(waiting_, std::nullopt).value_or(pb::CheckpointWritten());
      uploading_ = true;
    }
    Upload(next, stop);
    const MutexLock lock(mu_);
    uploading_ = false;
    changed_.notify_all();
  }
}

absl::StatusOr<v1::FileTree> CheckpointRelay::Store(const std::string& name,
                                                    const std::stop_token& stop) {
  LATHE_RETURN_IF_ERROR(fault::Hit("agent.checkpoint"));
  const std::filesystem::path folder = origin_.folder / name;
  LATHE_RETURN_IF_ERROR(CheckFolder(folder));
  return transfers_.UploadFolder(folder, origin_.job_id, origin_.attempt, stop);
}

void CheckpointRelay::Upload(const pb::CheckpointWritten& written, const std::stop_token& stop) {
  const absl::StatusOr<v1::FileTree> files = Store(written.name(), stop);
  if (!files.ok()) {
    // The training goes on; the next checkpoint may come through.
    return LogWarning(absl::StrCat(origin_.job_id, ": checkpoint after step ", written.step(),
                                   " is not stored: ", files.status().message()));
  }
  pb::SavedCheckpoint saved;
  fault::Pass("agent.checkpoint_stored");
  saved.set_step(written.step());
  *saved.mutable_files() = *files;
  publish_(std::move(saved));
}

}  // namespace lathe::agent
