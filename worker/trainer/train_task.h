#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/machine_memory.h"
#include "common/spec/job_spec.h"
#include "worker/engine/dist/communicator.h"
#include "worker/engine/eval/parity.h"
#include "worker/engine/train/train_observer.h"
#include "worker/trainer/answer_command.h"

namespace lathe {

struct TrainTask {
  std::filesystem::path model_dir;   // Canonical folder.
  std::filesystem::path shard_dir;   // Holds train.shard and validation.shard.
  std::filesystem::path output_dir;  // Rank 0 writes the PEFT folder there, or the whole model.
  std::filesystem::path parent_dir;  // PEFT folder to go on from. Empty: a new adapter.
  std::filesystem::path checkpoint_dir = {};  // Rank 0 writes checkpoints there. Empty: none.
  std::filesystem::path resume_dir = {};      // A checkpoint to go on from. Empty: from the start.
  bool owns_device = false;  // The process sees one GPU, which is this rank's alone.
  JobSpec spec;              // Resolved.
  int threads = 1;
  int64_t attempt = 1;
  // Ends the training on all ranks after the step that runs, like `stop` of RunTrainTask; rank 0
  // writes a checkpoint before.
  std::stop_token pause = {};
  // Rank 0: a checkpoint is whole. Called by the thread that trains.
  std::function<void(const std::filesystem::path& dir, int64_t step)> checkpoint_published =
      [](const std::filesystem::path&, int64_t) {};
  // Forms the group of ranks; called once, after the model is loaded, or before on a GPU.
  std::function<absl::StatusOr<std::unique_ptr<Communicator>>()> join;
  // Rank 0: answers the canary with what was exported, in another process.
  std::function<absl::StatusOr<CanaryAnswers>(const AnswerRequest&)> answer_afresh =
      [](const AnswerRequest& request) { return AnswerAfresh(request); };
  int64_t machine_memory_bytes = MachineMemoryBytes();  // 0: unknown.
};

struct TrainResult {
  // Of adapter_model.safetensors or, when every parameter is trained, of model.safetensors; equal
  // on all ranks.
  std::string adapter_sha256;
  int64_t trained_parameters = 0;
  uint64_t ledger = 0;           // Trainer::ledger() at the end.
  int64_t resumed_step = 0;      // Steps that were done before; 0: it began at the start.
  bool resume_verified = false;  // Of rank 0: checkpointer.h.
  Parity parity = {};            // Of rank 0; no positions on the others.
};

// A whole training as one rank: load, join, held-out loss, all steps, held-out loss, export and its
// verification. `stop` ends it on all ranks after the step that runs: Cancelled, as of a pause.
// Other errors: FailedPrecondition (a checkpoint of another training), InvalidArgument (model,
// data, or an adapter to go on from that does not fit; a machine too small for full tuning),
// FailedPrecondition (loss not finite, or no GPU), Unavailable (a peer is gone), DataLoss (ranks
// ended with different bits, a damaged checkpoint or one whose proof fails, or the export is not
// the trained model: then output_dir is gone). Throws what libtorch throws.
absl::StatusOr<TrainResult> RunTrainTask(const TrainTask& task, TrainObserver& observer,
                                         const std::stop_token& stop);

}  // namespace lathe
