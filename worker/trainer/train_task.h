#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "common/spec/job_spec.h"
#include "worker/engine/dist/communicator.h"
#include "worker/engine/train/train_observer.h"

namespace lathe {

struct TrainTask {
  std::filesystem::path model_dir;   // Canonical folder.
  std::filesystem::path shard_dir;   // Holds train.shard and validation.shard.
  std::filesystem::path output_dir;  // Rank 0 writes the PEFT folder there.
  JobSpec spec;                      // Resolved.
  int threads = 1;
  // Forms the group of ranks; called once, after the model is loaded.
  std::function<absl::StatusOr<std::unique_ptr<Communicator>>()> join;
};

struct TrainResult {
  std::string adapter_sha256;  // Of adapter_model.safetensors, equal on all ranks.
  int64_t trained_parameters = 0;
};

// A whole training as one rank: load, join, held-out loss, all steps, held-out loss, export and its
// verification. `stop` ends it on all ranks after the step that runs: Cancelled. Other errors:
// InvalidArgument (model or data), FailedPrecondition (loss not finite), Unavailable (a peer is
// gone), DataLoss (ranks ended with different bits). Throws what libtorch throws.
absl::StatusOr<TrainResult> RunTrainTask(const TrainTask& task, TrainObserver& observer,
                                         const std::stop_token& stop);

}  // namespace lathe
