#include "worker/engine/train/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lathe {
namespace {

// Values whose squares are summed at once, by one thread.
constexpr int64_t kNormChunk = int64_t{1} << 16;

// In 64 bits, in eight sums that the processor adds side by side.
template <typename T>
double SumOfSquares(const T* values, int64_t count) {
  constexpr int64_t kLanes = 8;
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const auto value = static_cast<double>(values[i + lane]);
      sums[lane] += value * value;
    }
  }
  for (; i < count; ++i) sums[0] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// Chunks are fixed and added in their order: the same bits with any number of threads.
double NormOnCpu(const at::Tensor& values) {
  const int64_t count = values.numel();
  std::vector<double> sums(static_cast<size_t>((count + kNormChunk - 1) / kNormChunk));
  AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "NormOnCpu", [&] {
    const auto* data = values.const_data_ptr<scalar_t>();
    at::parallel_for(0, static_cast<int64_t>(sums.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t first = chunk * kNormChunk;
        sums[static_cast<size_t>(chunk)] =
            SumOfSquares(data + first, std::min(kNormChunk, count - first));
      }
    });
  });
  return std::sqrt(std::accumulate(sums.begin(), sums.end(), 0.0));
}

double NormOf(const at::Tensor& values) {
  if (values.is_cpu()) return NormOnCpu(values);
  return at::linalg_vector_norm(values, 2, c10::nullopt, false, at::kDouble).item<double>();
}

}  // namespace

AdamW::AdamW(at::Tensor values, const AdamWOptions& options, const std::vector<DecayRange>& ranges)
    : options_(options),
      first_moments_(at::zeros_like(values)),
      second_moments_(at::zeros_like(values)),
      num_steps_(at::zeros({}, values.options().dtype(at::kFloat))) {
  int64_t begin = 0;
  for (const DecayRange& range : ranges) {
    Parts& parts = range.decays ? decayed_ : others_;
    parts.begins.push_back(begin);
    parts.values.push_back(values.narrow(0, begin, range.size));
    parts.first_moments.push_back(first_moments_.narrow(0, begin, range.size));
    parts.second_moments.push_back(second_moments_.narrow(0, begin, range.size));
    begin += range.size;
  }
  TORCH_CHECK(begin == values.numel(), "ranges have ", begin, " of ", values.numel(), " values");
}

void AdamW::Step(const at::Tensor& gradients, double learning_rate) {
  const at::NoGradGuard no_grad;
  // The kernel reads the number of this step, it does not count.
  num_steps_.add_(1);
  StepParts(decayed_, gradients, learning_rate, options_.weight_decay);
  StepParts(others_, gradients, learning_rate, 0);
}

void AdamW::Restore(const at::Tensor& first_moments, const at::Tensor& second_moments,
                    int64_t num_steps) {
  const at::NoGradGuard no_grad;
  TORCH_CHECK_VALUE(first_moments.sizes() == first_moments_.sizes() &&
                        second_moments.sizes() == second_moments_.sizes(),
                    "moments are of ", first_moments.numel(), " and ", second_moments.numel(),
                    " values; must be of ", first_moments_.numel());
  first_moments_.copy_(first_moments);
  second_moments_.copy_(second_moments);
  num_steps_.fill_(num_steps);
}

void AdamW::StepParts(const Parts& parts, const at::Tensor& gradients, double learning_rate,
                      double weight_decay) const {
  if (parts.values.empty()) return;
  std::vector<at::Tensor> part_gradients;
  for (size_t i = 0; i < parts.begins.size(); ++i) {
    part_gradients.push_back(gradients.narrow(0, parts.begins[i], parts.values[i].numel()));
  }
  at::_fused_adamw_(parts.values, part_gradients, parts.first_moments, parts.second_moments, {},
                    std::vector<at::Tensor>(parts.begins.size(), num_steps_), learning_rate,
                    options_.beta1, options_.beta2, weight_decay, options_.eps, /*amsgrad=*/false,
                    /*maximize=*/false);
}

double ClipGradNorm(at::Tensor& gradients, double max_norm) {
  const at::NoGradGuard no_grad;
  // Summed in 64 bits: one number for any layout of the buffer.
  const double norm = NormOf(gradients);
  if (max_norm > 0 && std::isfinite(norm)) {
    const double factor = max_norm / (norm + 1e-6);
    if (factor < 1) gradients.mul_(factor);
  }
  return norm;
}

}  // namespace lathe
