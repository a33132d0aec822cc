#include "worker/engine/generate/sample.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "worker/engine/ops/counter_random.h"

namespace lathe {
namespace {

constexpr double kMaxTemperature = 100;

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

}  // namespace

absl::Status SampleOptions::Validate() const {
  if (!(temperature >= 0 && temperature <= kMaxTemperature)) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature is ", temperature, "; must be in [0, ", kMaxTemperature, "]"));
  }
  if (!(top_p > 0 && top_p <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p is ", top_p, "; must be in (0, 1]"));
  }
  return absl::OkStatus();
}

std::vector<Candidate> Candidates(const at::Tensor& logits, const SampleOptions& options) {
  std::vector<Candidate> all = Softmax(logits, options.temperature);
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
