#include "worker/engine/generate/sample.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "worker/engine/ops/counter_random.h"

namespace lathe {
namespace {

constexpr double kMaxTemperature = 100;
constexpr double kMaxRepetitionPenalty = 10;

at::Tensor AsDoubles(const at::Tensor& logits) {
  TORCH_CHECK_VALUE(logits.dim() == 1 && logits.size(0) > 0, "logits have shape ", logits.sizes(),
                    "; must be a vector");
  const at::Tensor values = logits.detach().to(at::kCPU, at::kDouble).contiguous();
  TORCH_CHECK_VALUE(!values.isnan().any().item<bool>(), "a logit is NaN");
  return values;
}

// Probabilities of all tokens, in the order of their ids.
std::vector<Candidate> Softmax(const at::Tensor& logits, double temperature) {
  const at::Tensor values = AsDoubles(logits);
  const double* data = values.data_ptr<double>();
  const double highest = *std::max_element(data, data + values.numel());
  std::vector<Candidate> all(static_cast<size_t>(values.numel()));
  double sum = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    all[i] = {static_cast<int32_t>(i), std::exp((data[i] - highest) / temperature)};
    sum += all[i].probability;
  }
  for (Candidate& candidate : all) candidate.probability /= sum;
  return all;
}

// Ties go to the lower id, so that the set does not depend on a sort's whims.
bool Less(const Candidate& a, const Candidate& b) {
  return a.probability != b.probability ? a.probability < b.probability : a.id > b.id;
}

void KeepTopK(std::vector<Candidate>& all, int64_t top_k) {
  if (top_k == 0 || top_k >= static_cast<int64_t>(all.size())) return;
  std::vector<Candidate> sorted = all;
  const auto last = sorted.begin() + static_cast<std::ptrdiff_t>(top_k - 1);
  std::nth_element(sorted.begin(), last, sorted.end(),
                   [](const Candidate& a, const Candidate& b) { return Less(b, a); });
  std::erase_if(
      all, [&](const Candidate& candidate) { return candidate.probability < last->probability; });
  double mass = 0;
  for (const Candidate& candidate : all) mass += candidate.probability;
  for (Candidate& candidate : all) candidate.probability /= mass;
}

}  // namespace

absl::Status SampleOptions::Validate() const {
  if (!(temperature >= 0 && temperature <= kMaxTemperature)) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature is ", temperature, "; must be in [0, ", kMaxTemperature, "]"));
  }
  if (!(top_p > 0 && top_p <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p is ", top_p, "; must be in (0, 1]"));
  }
  if (top_k < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", top_k, "; must be at least 1, or 0 for all tokens"));
  }
  if (!(repetition_penalty > 0 && repetition_penalty <= kMaxRepetitionPenalty)) {
    return absl::InvalidArgumentError(absl::StrCat("repetition_penalty is ", repetition_penalty,
                                                   "; must be in (0, ", kMaxRepetitionPenalty,
                                                   "]"));
  }
  return absl::OkStatus();
}

at::Tensor PenalizeRepetition(const at::Tensor& logits, const std::vector<int32_t>& ids,
                              double penalty) {
  if (penalty == 1 || ids.empty()) return logits;
  const at::Tensor index = at::tensor(at::ArrayRef<int32_t>(ids), at::kInt).to(at::kLong);
  const at::Tensor seen = logits.index_select(0, index);
  // A token that comes twice is written twice with the same value.
  return logits.index_copy(0, index, at::where(seen < 0, seen * penalty, seen / penalty));
}

std::vector<Candidate> Candidates(const at::Tensor& logits, const SampleOptions& options) {
  std::vector<Candidate> all = Softmax(logits, options.temperature);
  KeepTopK(all, options.top_k);
  if (options.top_p >= 1) return all;
  // A heap, because few of many tokens are wanted.
  std::make_heap(all.begin(), all.end(), Less);
  std::vector<Candidate> kept;
  double mass = 0;
  while (mass < options.top_p && !all.empty()) {
    std::pop_heap(all.begin(), all.end(), Less);
    kept.push_back(all.back());
    all.pop_back();
    mass += kept.back().probability;
  }
  for (Candidate& candidate : kept) candidate.probability /= mass;
  return kept;
}

int32_t SampleToken(const at::Tensor& logits, const SampleOptions& options, int64_t position) {
  if (options.temperature == 0) {
    const at::Tensor values = AsDoubles(logits);
    const double* data = values.data_ptr<double>();
    return static_cast<int32_t>(std::max_element(data, data + values.numel()) - data);
  }
  const std::vector<Candidate> candidates = Candidates(logits, options);
  double left = UniformAt(StreamKey(options.seed, static_cast<uint64_t>(position)), 0);
  for (const Candidate& candidate : candidates) {
    left -= candidate.probability;
    if (left < 0) return candidate.id;
  }
  // Rounding may leave a little; a token of probability zero is never drawn.
  return std::max_element(candidates.begin(), candidates.end(), Less)->id;
}

}  // namespace lathe
