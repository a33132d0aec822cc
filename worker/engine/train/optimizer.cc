#include "worker/engine/train/optimizer.h"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>

namespace lathe {

AdamW::AdamW(at::Tensor values, const AdamWOptions& options)
    : options_(options),
      values_(std::move(values)),
      first_moment_(at::zeros_like(values_)),
      second_moment_(at::zeros_like(values_)),
      num_steps_(at::zeros({}, at::kFloat)) {}

void AdamW::Step(const at::Tensor& gradients, double learning_rate) {
  const at::NoGradGuard no_grad;
  // The kernel reads the number of this step, it does not count.
  num_steps_.add_(1);
  at::_fused_adamw_({values_}, {gradients}, {first_moment_}, {second_moment_}, {}, {num_steps_},
                    learning_rate, options_.beta1, options_.beta2, options_.weight_decay,
                    options_.eps, /*amsgrad=*/false, /*maximize=*/false);
}

double ClipGradNorm(at::Tensor& gradients, double max_norm) {
  const at::NoGradGuard no_grad;
  // Summed in 64 bits: one number for any layout of the buffer.
  const double norm =
      at::linalg_vector_norm(gradients, 2, c10::nullopt, false, at::kDouble).item<double>();
  if (max_norm > 0 && std::isfinite(norm)) {
    const double factor = max_norm / (norm + 1e-6);
    if (factor < 1) gradients.mul_(factor);
  }
  return norm;
}

}  // namespace lathe
