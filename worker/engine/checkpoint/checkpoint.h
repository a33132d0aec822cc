#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/file.h"
#include "worker/engine/checkpoint/manifest.h"
#include "worker/formats/safetensors.h"

// Checkpoints as folders "step-000000040" of a folder of their own: state.safetensors and, written
// last, manifest.json. One is there as a whole or not at all (docs/decisions/0016-exact-resume.md):
// temporary folder, fsync of every file and of the folder, rename, fsync of the parent.

namespace lathe {

// Written, but not yet seen by anybody: the proof comes with the next micro-batch. One that is
// destroyed before leaves nothing behind. Thread-compatible.
class PendingCheckpoint {
 public:
  // `state`: flat tensors of one size. ResourceExhausted: the disk is full.
  static absl::StatusOr<PendingCheckpoint> Write(const std::filesystem::path& folder,
                                                 const std::vector<TensorView>& state);
  // Completes `manifest` with the files and makes the checkpoint. One of the same step that is
  // whole stays: it has the same bits. REQUIRES: called once. Returns its folder.
  absl::StatusOr<std::filesystem::path> Publish(CheckpointManifest manifest);

 private:
  PendingCheckpoint(std::filesystem::path folder, TempFolder temp, CheckpointFile state)
      : folder_(std::move(folder)), temp_(std::move(temp)), state_(std::move(state)) {}

  std::filesystem::path folder_;
  TempFolder temp_;
  CheckpointFile state_;
};

struct Checkpoint {
  CheckpointManifest manifest;
  SafetensorsFile state;  // Mapped.
};

// Reads all of it. DataLoss: it is damaged, and how. NotFound: there is none.
absl::StatusOr<Checkpoint> OpenCheckpoint(const std::filesystem::path& dir);

// The newest one that is whole; nullopt: there is none. `damaged` is told of each that was passed.
absl::StatusOr<std::optional<Checkpoint>> OpenNewestCheckpoint(
    const std::filesystem::path& folder, const std::function<void(const absl::Status&)>& damaged);

// Removes all but the newest `keep`, and what a crash left. REQUIRES: keep >= 1; nobody writes
// there.
absl::Status KeepNewestCheckpoints(const std::filesystem::path& folder, int keep);

}  // namespace lathe
