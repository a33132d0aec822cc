#include "worker/engine/eval/held_out.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/engine/train/plan/step_plan.h"

// M micro-batches.

namespace lathe {
namespace {

// The columns of the sums [M, 2].
constexpr int64_t kLoss = 0;
constexpr int64_t kCorrect = 1;

StepPlan PlanAll(const Shard& rows, int64_t micro_batch_tokens) {
  std::vector<uint32_t> all(rows.num_rows());
  std::iota(all.begin(), all.end(), 0U);
  return PlanStep(rows, all, micro_batch_tokens);
}

}  // namespace

absl::StatusOr<Evaluation> EvaluateHeldOut(LanguageModel& model, const std::string& adapter,
                                           const Shard& rows, int64_t micro_batch_tokens,
                                           Communicator& group, TrainObserver& observer) {
  Evaluation evaluation;
  evaluation.rows = static_cast<int64_t>(rows.num_rows());
  if (rows.num_rows() == 0) return evaluation;
  const StepPlan plan = PlanAll(rows, micro_batch_tokens);
  evaluation.tokens = plan.trained_tokens;
  // A line per micro-batch, so that the order of the sum does not depend on the number of ranks.
  at::Tensor sums = at::zeros({static_cast<int64_t>(plan.micro_batches.size()), 2}, at::kDouble);
  for (size_t i = 0; i < plan.micro_batches.size(); ++i) {
    if (!IsOwnMicroBatch(i, group.rank(), group.size())) continue;
    observer.OnPhase("evaluate");
    const PackedBatch batch = BuildMicroBatch(rows, plan.micro_batches[i]);
    if (batch.labels.empty()) continue;
    const EvalSums own = model.Evaluate(batch, adapter);
    at::Tensor line = sums[static_cast<int64_t>(i)];
    line[kLoss] = own.loss;
    line[kCorrect] = static_cast<double>(own.correct);
  }
  LATHE_RETURN_IF_ERROR(group.AllReduceSum(sums));
  if (evaluation.tokens == 0) return evaluation;
  for (int64_t i = 0; i < sums.size(0); ++i) evaluation.loss += sums[i][kLoss].item<double>();
  const auto num_tokens = static_cast<double>(evaluation.tokens);
  evaluation.loss /= num_tokens;
  if (!std::isfinite(evaluation.loss)) {
    return absl::FailedPreconditionError(absl::StrCat("held-out loss is ", evaluation.loss,
                                                      " over ", DescribeRows(rows, plan),
                                                      "; must be finite"));
  }
  evaluation.accuracy = sums.select(1, kCorrect).sum().item<double>() / num_tokens;
  return evaluation;
}

}  // namespace lathe
