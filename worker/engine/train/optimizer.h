#pragma once

#include <ATen/core/Tensor.h>

namespace lathe {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;  // Decoupled: values *= 1 - learning_rate * weight_decay.
};

// torch.optim.AdamW(fused=True) over one flat tensor (Loshchilov and Hutter, 2019).
// Thread-compatible.
class AdamW {
 public:
  // Shares `values` [P] with the caller.
  AdamW(at::Tensor values, const AdamWOptions& options);

  // `gradients` [P], of the type of the values.
  void Step(const at::Tensor& gradients, double learning_rate);

 private:
  const AdamWOptions options_;
  at::Tensor values_;
  at::Tensor first_moment_;
  at::Tensor second_moment_;
  at::Tensor num_steps_;  // [], float32, as the kernel wants it.
};

// Scales `gradients` in place so that their L2 norm is at most `max_norm`, by the formula of
// torch.nn.utils.clip_grad_norm_: factor min(1, max_norm / (norm + 1e-6)). 0: no clipping. Returns
// the norm before; a norm that is not finite scales nothing.
double ClipGradNorm(at::Tensor& gradients, double max_norm);

}  // namespace lathe
