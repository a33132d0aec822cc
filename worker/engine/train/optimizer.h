#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lathe {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;  // Decoupled: values *= 1 - learning_rate * weight_decay.
};

// The next `size` values of the flat tensor, and whether weight decay applies to them.
struct DecayRange {
  int64_t size = 0;
  bool decays = true;
};

// torch.optim.AdamW(fused=True) over one flat tensor (Loshchilov and Hutter, 2019).
// Thread-compatible.
class AdamW {
 public:
  // Shares `values` [P] with the caller. The sizes of `ranges` add up to P; without decay they
  // change nothing.
  AdamW(at::Tensor values, const AdamWOptions& options, const std::vector<DecayRange>& ranges);
  // Weight decay on all values.
  AdamW(const at::Tensor& values, const AdamWOptions& options)
      : AdamW(values, options, {{values.numel(), true}}) {}

  // `gradients` [P], of the type of the values.
  void Step(const at::Tensor& gradients, double learning_rate);

  // Its own tensors, [P]: moving averages of the gradients and of their squares.
  const at::Tensor& first_moments() const { return first_moments_; }
  const at::Tensor& second_moments() const { return second_moments_; }
  // Goes on as after `num_steps` steps that left these moments, which are copied.
  void Restore(const at::Tensor& first_moments, const at::Tensor& second_moments,
               int64_t num_steps);

 private:
  // Parts of the flat tensors; all of one kind are updated by one call.
  struct Parts {
    std::vector<int64_t> begins;
    std::vector<at::Tensor> values;
    std::vector<at::Tensor> first_moments;
    std::vector<at::Tensor> second_moments;
  };
  void StepParts(const Parts& parts, const at::Tensor& gradients, double learning_rate,
                 double weight_decay) const;

  const AdamWOptions options_;
  at::Tensor first_moments_;
  at::Tensor second_moments_;
  Parts decayed_;
  Parts others_;
  at::Tensor num_steps_;  // [], float32, beside the values, as the kernel wants it.
};

// Scales `gradients` in place so that their L2 norm is at most `max_norm`, by the formula of
// torch.nn.utils.clip_grad_norm_: factor min(1, max_norm / (norm + 1e-6)). 0: no clipping. Returns
// the norm before; a norm that is not finite scales nothing.
double ClipGradNorm(at::Tensor& gradients, double max_norm);

}  // namespace lathe
