#include "worker/engine/train/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "worker/engine/train/plan/random.h"
#include "worker/engine/train/plan/weight_decay.h"

// M micro-batches of a step, P trained parameters.

namespace lathe {
namespace {

// The columns of what ranks tell each other [M + 1, 2].
constexpr int64_t kLoss = 0;
constexpr int64_t kLargest = 1;

// Of a micro-batch of this rank.
struct OwnReport {
  size_t index = 0;
  at::Tensor loss_sum = {};
  at::Tensor largest = {};
};

// Adds the time from the last call (or construction) to `total`.
class Lap {
 public:
  explicit Lap(const Clock& clock) : clock_(clock), last_(clock.Now()) {}
  void AddTo(absl::Duration& total) {
    const absl::Time now = clock_.Now();
    total += now - last_;
    last_ = now;
  }

 private:
  const Clock& clock_;
  absl::Time last_;
};

ScheduleKind ParseSchedule(const std::string& name) {
  if (name == "linear") return ScheduleKind::kLinear;
  return name == "constant" ? ScheduleKind::kConstant : ScheduleKind::kCosine;
}

OrderOptions OrderOf(const JobSpec& spec, const Shard& rows) {
  return {.seed = static_cast<uint64_t>(spec.seed),
          .epochs = spec.epochs,
          .batch_size = spec.batch_size,
          .num_rows = rows.num_rows()};
}

ScheduleOptions ScheduleOf(const JobSpec& spec, int64_t num_steps) {
  return {.kind = ParseSchedule(spec.schedule),
          .peak = spec.learning_rate,
          .num_steps = num_steps,
          .num_warmup_steps = WarmupSteps(spec.warmup_ratio, num_steps)};
}

std::vector<AdapterTensor> TrainedTensors(const TrainerParts& parts) {
  return parts.adapter.empty() ? parts.model.ParameterTensors()
                               : parts.model.AdapterTensors(parts.adapter);
}

// Neighbours of one kind together, in the order of the flat buffer.
std::vector<DecayRange> DecayRangesOf(const FlatParameters& parameters) {
  std::vector<DecayRange> ranges;
  for (const AdapterTensor& entry : parameters.tensors()) {
    const bool decays = HasWeightDecay(entry.name);
    if (ranges.empty() || ranges.back().decays != decays) ranges.push_back({0, decays});
    ranges.back().size += entry.tensor.numel();
  }
  return ranges;
}

AdamWOptions AdamWOf(const JobSpec& spec) {
  return {
      .beta1 = spec.beta1, .beta2 = spec.beta2, .eps = spec.eps, .weight_decay = spec.weight_decay};
}

}  // namespace

struct Trainer::Timing {
  absl::Duration forward, backward, reduce, optimizer, step;
  double grad_norm = 0;
  double learning_rate = 0;
};

Trainer::Trainer(TrainerParts parts, const JobSpec& spec)
    : parts_(std::move(parts)),
      spec_(spec),
      order_(OrderOf(spec, parts_.rows)),
      schedule_(ScheduleOf(spec, order_.num_steps())),
      parameters_(TrainedTensors(parts_)),
      buckets_(parameters_, parts_.group, {.exact = IsExactReduction(spec)}),
      optimizer_(parameters_.values(), AdamWOf(spec), DecayRangesOf(parameters_)) {}

absl::StatusOr<StepStats> Trainer::Step(bool stop) {
  Timing timing;
  Lap step_lap(parts_.clock);
  const std::vector<uint32_t> rows = order_.RowsOfStep(num_done_);
  const StepPlan plan = PlanStep(parts_.rows, rows, spec_.micro_batch_tokens);
  LATHE_RETURN_IF_ERROR(CheckTrainable(plan));
  buckets_.SetZero();
  LATHE_ASSIGN_OR_RETURN(at::Tensor reports, ForwardBackward(plan, stop, timing));

  Lap lap(parts_.clock);
  LATHE_RETURN_IF_ERROR(Reduce(reports));
  lap.AddTo(timing.reduce);

  LATHE_RETURN_IF_ERROR(CheckLosses(plan, reports));
  LATHE_RETURN_IF_ERROR(CheckLargest(plan, reports));
  parameters_.gradients().div_(static_cast<double>(plan.trained_tokens));
  timing.grad_norm = ClipGradNorm(parameters_.gradients(), spec_.max_grad_norm);
  LATHE_RETURN_IF_ERROR(CheckGradNorm(plan, timing.grad_norm));
  LATHE_RETURN_IF_ERROR(fault::Hit("train.optimizer"));
  timing.learning_rate = LearningRate(schedule_, num_done_);
  optimizer_.Step(parameters_.gradients(), timing.learning_rate);
  lap.AddTo(timing.optimizer);

  step_lap.AddTo(timing.step);
  const auto epoch = static_cast<uint64_t>(num_done_ / order_.steps_per_epoch());
  for (const uint32_t row : rows) ledger_ = MixKey({ledger_, epoch, row});
  ++num_done_;
  ++num_timed_;
  busy_ += timing.step;
  stopped_ = reports[-1][0].item<double>() > 0;
  const StepStats stats = ReadStats(plan, reports, timing);
  LATHE_RETURN_IF_ERROR(fault::Hit("train.report"));
  parts_.observer.OnStep(stats);
  return stats;
}

TrainerState Trainer::state() {
  return {num_done_, ledger_, parameters_.values(), optimizer_.first_moments(),
          optimizer_.second_moments()};
}

void Trainer::Restore(const TrainerState& state) {
  const at::NoGradGuard no_grad;
  TORCH_CHECK_VALUE(state.values.sizes() == parameters_.values().sizes(), "state is of ",
                    state.values.numel(), " parameters; must be of ", num_parameters());
  optimizer_.Restore(state.first_moments, state.second_moments, state.num_done);
  parameters_.values().copy_(state.values);
  num_done_ = state.num_done;
  ledger_ = state.ledger;
}

at::Tensor Trainer::RunMicroBatch(const StepPlan& plan, size_t index, Timing& timing) {
  const PackedBatch batch = BuildMicroBatch(parts_.rows, plan.micro_batches[index]);
  if (batch.labels.empty()) return at::zeros({}, at::kDouble);
  const uint64_t dropout_seed = MixKey(
      {static_cast<uint64_t>(spec_.seed), static_cast<uint64_t>(num_done_), uint64_t{index}});
  Lap lap(parts_.clock);
  const at::Tensor loss_sum =
      parts_.model.LossSum(batch, parts_.adapter, /*training=*/true, dropout_seed);
  lap.AddTo(timing.forward);
  // The last one of this rank. Without labels it never comes here: then Finish() starts the sums,
  // and so it does where the gradients of this micro-batch alone are asked for.
  const bool last = index + static_cast<size_t>(parts_.group.size()) >= plan.micro_batches.size();
  if (last && !(index == 0 && probe_)) buckets_.Arm();
  loss_sum.backward();
  lap.AddTo(timing.backward);
  return loss_sum.detach();
}

at::Tensor Trainer::EndMicroBatch(Timing& timing) {
  Lap lap(parts_.clock);
  at::Tensor largest = buckets_.EndMicroBatch();
  lap.AddTo(timing.reduce);
  return largest;
}

absl::Status Trainer::RunProbe() {
  if (!probe_ || !IsOwnMicroBatch(0, parts_.group.rank(), parts_.group.size())) {
    return absl::OkStatus();
  }
  Timing timing;
  parameters_.ZeroGradients();
  const StepPlan plan =
      PlanStep(parts_.rows, order_.RowsOfStep(num_done_), spec_.micro_batch_tokens);
  const auto loss = RunMicroBatch(plan, 0, timing).item<double>();
  return std::exchange(probe_, nullptr)(loss, parameters_.gradients());
}

absl::StatusOr<at::Tensor> Trainer::ForwardBackward(const StepPlan& plan, bool stop,
                                                    Timing& timing) {
  const size_t num_micro_batches = plan.micro_batches.size();
  std::vector<OwnReport> own;
  for (size_t i = 0; i < num_micro_batches; ++i) {
    if (!IsOwnMicroBatch(i, parts_.group.rank(), parts_.group.size())) continue;
    parts_.observer.OnPhase("train");
    LATHE_RETURN_IF_ERROR(fault::Hit("train.micro_batch"));
    own.push_back({.index = i, .loss_sum = RunMicroBatch(plan, i, timing)});
    if (i == 0 && probe_) {
      const auto loss = own[0].loss_sum.item<double>();
      LATHE_RETURN_IF_ERROR(std::exchange(probe_, nullptr)(loss, parameters_.gradients()));
    }
    own.back().largest = EndMicroBatch(timing);
  }
  // Read when all are queued: a GPU is not waited for in between.
  Lap lap(parts_.clock);
  at::Tensor reports = at::zeros({static_cast<int64_t>(num_micro_batches) + 1, 2}, at::kDouble);
  for (const OwnReport& report : own) {
    at::Tensor line = reports[static_cast<int64_t>(report.index)];
    line[kLoss] = report.loss_sum.item<double>();
    line[kLargest] = report.largest.item<double>();
  }
  lap.AddTo(timing.backward);
  reports[-1][0] = stop ? 1.0 : 0.0;
  if (num_timed_ == 0) parameters_.CheckViews();
  return reports;
}

absl::Status Trainer::Reduce(at::Tensor& reports) {
  parts_.observer.OnPhase("reduce");
  LATHE_RETURN_IF_ERROR(fault::Hit("train.reduce"));
  LATHE_RETURN_IF_ERROR(buckets_.Finish());
  LATHE_RETURN_IF_ERROR(fault::Hit("train.reduced"));
  return parts_.group.AllReduceSum(reports);
}

absl::Status Trainer::CheckTrainable(const StepPlan& plan) const {
  if (plan.trained_tokens > 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("step ", num_done_ + 1, " has no trained token in ",
                   DescribeRows(parts_.rows, plan), "; a row needs at least one"));
}

absl::Status Trainer::CheckLosses(const StepPlan& plan, const at::Tensor& reports) const {
  for (size_t i = 0; i < plan.micro_batches.size(); ++i) {
    const auto loss = reports[static_cast<int64_t>(i)][kLoss].item<double>();
    if (std::isfinite(loss)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("step ", num_done_ + 1, ": the loss is ", loss, ", which is not finite, in ",
                     DescribeRows(parts_.rows, plan.micro_batches[i]),
                     "; look at these rows, or lower learning_rate"));
  }
  return absl::OkStatus();
}

absl::Status Trainer::CheckLargest(const StepPlan& plan, const at::Tensor& reports) const {
  double total = 0;
  for (size_t i = 0; i < plan.micro_batches.size(); ++i) {
    const auto largest = reports[static_cast<int64_t>(i)][kLargest].item<double>();
    total += largest;
    // The first that is not finite, or that is one too many.
    if (total <= ExactSums::kMaxTotal) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "step ", num_done_ + 1, ": the largest gradient is ", largest, " in ",
        DescribeRows(parts_.rows, plan.micro_batches[i]), " and ", total,
        " added up so far; with reduction exact it must be at most ", ExactSums::kMaxTotal,
        " before it is divided by the trained tokens: look at these rows, lower learning_rate, or "
        "set reduction fast"));
  }
  return absl::OkStatus();
}

absl::Status Trainer::CheckGradNorm(const StepPlan& plan, double grad_norm) const {
  if (std::isfinite(grad_norm)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "step ", num_done_ + 1, ": the gradient norm is ", grad_norm, ", which is not finite, over ",
      DescribeRows(parts_.rows, plan), "; look at these rows, or lower learning_rate"));
}

StepStats Trainer::ReadStats(const StepPlan& plan, const at::Tensor& reports,
                             const Timing& timing) const {
  StepStats stats;
  stats.step = num_done_;
  stats.num_steps = num_steps();
  stats.num_micro_batches = static_cast<int64_t>(plan.micro_batches.size());
  // One after the other, whoever computed them: the sum does not depend on the number of ranks.
  for (int64_t i = 0; i < stats.num_micro_batches; ++i) {
    stats.loss += reports[i][kLoss].item<double>();
  }
  stats.loss /= static_cast<double>(plan.trained_tokens);
  stats.learning_rate = timing.learning_rate;
  stats.grad_norm = timing.grad_norm;
  stats.trained_tokens = plan.trained_tokens;
  stats.prompt_tokens = plan.prompt_tokens;
  const double seconds = std::max(1e-9, absl::ToDoubleSeconds(timing.step));
  stats.tokens_per_second = static_cast<double>(plan.trained_tokens + plan.prompt_tokens) / seconds;
  stats.step_time = timing.step;
  stats.forward_time = timing.forward;
  stats.backward_time = timing.backward;
  stats.reduce_time = timing.reduce;
  stats.optimizer_time = timing.optimizer;
  stats.epoch = order_.EpochAfter(num_done_);
  stats.remaining = busy_ / num_timed_ * (num_steps() - num_done_);
  return stats;
}

}  // namespace lathe
