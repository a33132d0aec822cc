#pragma once

#include <ATen/core/Tensor.h>

// T tokens, D model width, I intermediate width.

namespace lathe {

// weight * x / sqrt(mean(x^2) + eps), [T, D]; weight [D] is frozen.
// Source: transformers, LlamaRMSNorm.
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps);

// silu(gate) * up of [T, 2 I], gate first -> [T, I]. Source: transformers, LlamaMLP.
at::Tensor SwiGlu(const at::Tensor& gate_up);

}  // namespace lathe
