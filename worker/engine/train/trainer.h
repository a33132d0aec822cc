#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/spec/job_spec.h"
#include "worker/data/shard.h"
#include "worker/engine/dist/communicator.h"
#include "worker/engine/model/language_model.h"
#include "worker/engine/train/flat_parameters.h"
#include "worker/engine/train/gradient_buckets.h"
#include "worker/engine/train/optimizer.h"
#include "worker/engine/train/plan/order.h"
#include "worker/engine/train/plan/schedule.h"
#include "worker/engine/train/plan/step_plan.h"
#include "worker/engine/train/stats.h"
#include "worker/engine/train/train_observer.h"

namespace lathe {

// What a Trainer works with; all of it outlives the Trainer.
struct TrainerParts {
  LanguageModel& model;
  // Its tensors are trained. Empty: every parameter of the model, which was loaded trainable.
  std::string adapter;
  const Shard& rows;  // The same on every rank.
  Communicator& group;
  TrainObserver& observer;
  const Clock& clock;
};

// What a training is between two steps, beside its rows and settings. Randomness, order of the rows
// and learning rate follow from num_done.
struct TrainerState {
  int64_t num_done = 0;
  uint64_t ledger = 0;
  at::Tensor values;          // [P], as FlatParameters.
  at::Tensor first_moments;   // [P]
  at::Tensor second_moments;  // [P]
};

// Data-parallel fine-tuning of one adapter or a whole model, as one rank of the group. semantics.md
// sections 0 and 1: loss = sum over all ranks and micro-batches of token losses / trained tokens of
// the step. The same seed, data and number of ranks give the same bits; with `reduction` exact any
// number of ranks does. Thread-compatible; throws c10::Error where libtorch does.
class Trainer {
 public:
  // `spec` is resolved and valid. REQUIRES: the shard has rows.
  Trainer(TrainerParts parts, const JobSpec& spec);

  int64_t num_steps() const { return order_.num_steps(); }
  int64_t num_done() const { return num_done_; }
  int64_t num_parameters() const { return parameters_.num_parameters(); }
  // After a step that some rank asked to be the last: true on every rank.
  bool stopped() const { return stopped_; }

  // One optimizer step; `stop` asks all ranks to end after it. FailedPrecondition: loss or gradient
  // is not finite or too large for exact sums, or no token is trained; names step and rows, and the
  // weights are as they were.
  // Unavailable: a peer is gone. REQUIRES: num_done() < num_steps().
  absl::StatusOr<StepStats> Step(bool stop = false);

  // Shares memory with the trainer: valid until the next step.
  TrainerState state();
  // Goes on from another trainer's state, which is copied. REQUIRES: no step was taken. Throws
  // c10::Error: it is of another number of parameters.
  void Restore(const TrainerState& state);
  // Of every row that was trained on so far, in order, MixKey({hash before, epoch, row}): two runs
  // with equal hashes have counted the same rows in the same order.
  uint64_t ledger() const { return ledger_; }

  // Sees loss sum and flat gradients [P] of the next step's first micro-batch alone, on the rank
  // that computes it; others never call it. An error ends the step before anything changes.
  using Probe = std::function<absl::Status(double loss_sum, const at::Tensor& gradients)>;
  void ProbeNextStep(Probe probe) { probe_ = std::move(probe); }
  // Computes that micro-batch now, for a probe that no step will come to; the step can still be
  // taken. REQUIRES: num_done() < num_steps().
  absl::Status RunProbe();

  // Of the last step: reduced over all ranks, divided by the trained tokens and clipped. [P]
  const at::Tensor& gradients() { return parameters_.gradients(); }
  const FlatParameters& parameters() const { return parameters_; }
  const GradientBuckets& buckets() const { return buckets_; }

 private:
  struct Timing;

  // What ranks tell each other [M + 1, 2]: loss sum and largest gradient per micro-batch, 0 for
  // those of other ranks; last the request to stop. Gradients are added up, and the last backward
  // pass starts to reduce them.
  absl::StatusOr<at::Tensor> ForwardBackward(const StepPlan& plan, bool stop, Timing& timing);
  // The loss sum of micro-batch `index`, whose gradients are added to the flat buffer.
  at::Tensor RunMicroBatch(const StepPlan& plan, size_t index, Timing& timing);
  // Its largest gradient, if that matters.
  at::Tensor EndMicroBatch(Timing& timing);
  absl::Status Reduce(at::Tensor& reports);
  absl::Status CheckTrainable(const StepPlan& plan) const;
  absl::Status CheckLosses(const StepPlan& plan, const at::Tensor& reports) const;
  // Whether the exact sums are right.
  absl::Status CheckLargest(const StepPlan& plan, const at::Tensor& reports) const;
  absl::Status CheckGradNorm(const StepPlan& plan, double grad_norm) const;
  StepStats ReadStats(const StepPlan& plan, const at::Tensor& reports, const Timing& timing) const;

  TrainerParts parts_;
  const JobSpec spec_;
  RowOrder order_;
  const ScheduleOptions schedule_;
  FlatParameters parameters_;
  GradientBuckets buckets_;
  AdamW optimizer_;
  int64_t num_done_ = 0;
  uint64_t ledger_ = 0;
  Probe probe_;  // Empty: nobody asks.
  bool stopped_ = false;
  absl::Duration busy_;    // Of all steps that were taken here,
  int64_t num_timed_ = 0;  // whose number is this.
};

}  // namespace lathe
