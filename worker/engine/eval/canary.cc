#include "worker/engine/eval/canary.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/engine/generate/greedy.h"
#include "worker/engine/train/plan/packing.h"

namespace lathe {
namespace {

CanaryRow CutRow(const TokenRow& row) {
  const size_t length = std::min(row.ids.size(), kCanaryTokens);
  const auto trained = row.trained.first(length);
  const auto first = std::find(trained.begin(), trained.end(), 1) - trained.begin();
  return {.ids = {row.ids.begin(), row.ids.begin() + static_cast<std::ptrdiff_t>(length)},
          .trained = {trained.begin(), trained.end()},
          .first_label = std::max<int64_t>(1, first) - 1};
}

// As many tokens as the model has positions for; the last one needs none.
GreedyPrompt PromptOf(const LanguageModel& model, const CanaryRow& row) {
  std::vector<int32_t> prompt(row.ids.begin(), row.ids.begin() + row.first_label + 1);
  const int64_t room = model.config().max_positions - static_cast<int64_t>(prompt.size()) + 1;
  return {std::move(prompt), std::min(kCanaryNewTokens, room)};
}

double MeanKl(const at::Tensor& trained, const at::Tensor& exported) {
  const at::Tensor p = at::log_softmax(trained.to(at::kDouble), -1);
  const at::Tensor q = at::log_softmax(exported.to(at::kDouble), -1);
  return (at::exp(p) * (p - q)).sum(-1).mean().item<double>();
}

}  // namespace

std::vector<CanaryRow> CanaryRows(const Shard& shard) {
  std::vector<CanaryRow> rows;
  for (size_t i = 0; i < std::min(shard.num_rows(), kCanaryRows); ++i) {
    rows.push_back(CutRow(shard.row(i)));
  }
  return rows;
}

CanaryAnswers AnswerCanary(LanguageModel& model, const std::vector<CanaryRow>& rows,
                           const std::string& adapter) {
  CanaryAnswers answers;
  std::vector<at::Tensor> logits;
  std::vector<GreedyPrompt> prompts;
  for (const CanaryRow& row : rows) {
    const TokenRow document = {.ids = row.ids, .trained = row.trained};
    const at::Tensor all = model.Logits(BuildBatch({&document, 1}), adapter);
    const int64_t count = std::min(kCanaryPositions, all.size(0));
    logits.push_back(all.narrow(0, all.size(0) - count, count).to(at::kFloat));
    prompts.push_back(PromptOf(model, row));
  }
  for (const std::vector<int32_t>& made : GreedyIds(model, prompts, /*end_ids=*/{}, adapter)) {
    answers.greedy.insert(answers.greedy.end(), made.begin(), made.end());
  }
  answers.logits = at::cat(logits);
  return answers;
}

absl::StatusOr<Parity> CompareAnswers(const CanaryAnswers& trained, const CanaryAnswers& exported) {
  if (trained.logits.sizes() != exported.logits.sizes() ||
      trained.greedy.size() != exported.greedy.size()) {
    return absl::DataLossError("parity: the exported model answers in another size");
  }
  const at::Tensor difference = (trained.logits - exported.logits).abs();
  Parity parity{.max_logit_difference = difference.max().item<double>(),
                .kl = MeanKl(trained.logits, exported.logits),
                .positions = trained.logits.size(0)};
  const auto equal =
      std::inner_product(trained.greedy.begin(), trained.greedy.end(), exported.greedy.begin(),
                         int64_t{0}, std::plus<>(), std::equal_to<>());
  parity.greedy_agreement =
      static_cast<double>(equal) / static_cast<double>(std::max<size_t>(1, trained.greedy.size()));
  return parity;
}

absl::Status JudgeParity(const Parity& parity) {
  const auto refuse = [](const char* what, double got, const char* relation, double bound) {
    return absl::DataLossError(absl::StrCat("parity: the exported model's ", what, " is ", got,
                                            "; must be ", relation, " ", bound));
  };
  // Written so that NaN is refused.
  if (!(parity.max_logit_difference <= kMaxLogitDifference)) {
    return refuse("largest logit difference from the trained one", parity.max_logit_difference,
                  "at most", kMaxLogitDifference);
  }
  if (!(parity.kl <= kMaxKl)) return refuse("KL divergence", parity.kl, "at most", kMaxKl);
  if (parity.greedy_agreement < 1) {
    return refuse("greedy agreement", parity.greedy_agreement, "exactly", 1);
  }
  return absl::OkStatus();
}

}  // namespace lathe
