#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "common/spec/job_spec.h"
#include "worker/engine/checkpoint/checkpoint_writer.h"
#include "worker/engine/train/trainer.h"

// When a training writes a checkpoint, and how one goes on from it.
// docs/decisions/0016-exact-resume.md.

namespace lathe {

// What a checkpoint is of. A training goes on from one only if all of this is the same.
using CheckpointContext = std::map<std::string, std::string>;

// Of a job's settings those that the numbers follow from, of the base config.json and its size, and
// the rows. Reads the shard.
absl::StatusOr<CheckpointContext> ContextOf(const JobSpec& spec,
                                            const std::filesystem::path& model_dir,
                                            const std::filesystem::path& shard_dir);

// What the bits depend on beside the context. Empty for a device that promises none: a GPU, whose
// attention adds in no fixed order (docs/gpu.md).
std::string DescribeMachine(const std::string& device, int threads);

// Writes a checkpoint every so many steps. Of rank 0; thread-compatible.
class Checkpointer {
 public:
  struct Options {
    CheckpointWriter::Options writer;
    int64_t every_steps = 100;
    int64_t attempt = 1;
    CheckpointContext context;
    std::string machine;
    // Told of each that is complete, by the thread that trains.
    std::function<void(const std::filesystem::path& dir, int64_t step)> published;
  };
  // `trainer` outlives it.
  Checkpointer(Options options, Trainer& trainer);
  ~Checkpointer();

  // Between two steps. A checkpoint that cannot be written is a warning: the training goes on.
  void AfterStep();
  // Whether AfterStep() begins one now.
  bool IsDue() const;
  // Writes one of the state as it is now, if steps are left, and waits until it is whole. REQUIRES:
  // no AfterStep() came after the last step.
  absl::Status WriteNow();
  // After the last step: one that is still being written is whole and told when this returns.
  void Finish();

 private:
  void Begin();
  void TellOutcome();

  const Options options_;
  Trainer& trainer_;
  int64_t step_ = 0;  // Of the one that is being written.
  CheckpointWriter writer_;
};

struct Resumed {
  int64_t step = 0;
  bool verified = false;  // Set by the first step.
};

// Puts `trainer` where the checkpoint was. On rank 0 (`prove`) its next step must give the bits
// that the proof has: else DataLoss, or, where the checkpoint came from another kind of machine or
// `machine` is empty, a warning and `resumed` stays unverified. `resumed` lives as long as the
// trainer. FailedPrecondition: the checkpoint is of another training.
absl::Status ResumeFrom(const Checkpoint& checkpoint, const CheckpointContext& context,
                        const std::string& machine, bool prove, Trainer& trainer, Resumed& resumed);

}  // namespace lathe
