#pragma once

#include <ATen/core/Tensor.h>

// T tokens, D model width, I intermediate width.

namespace lathe {

// weight * x / sqrt(mean(x^2) + eps), [T, D]; weight [D].
// Source: transformers, LlamaRMSNorm.
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps);

// RmsNorm of every head of the first N heads of qkv [T, (N + M) E], each with its own row of weight
// [N, E]; the M others pass. Source: transformers, Qwen3Attention.
at::Tensor NormHeads(const at::Tensor& qkv, const at::Tensor& weight, double eps);

// silu(gate) * up of [T, 2 I], gate first -> [T, I]. Source: transformers, LlamaMLP.
at::Tensor SwiGlu(const at::Tensor& gate_up);

// gelu(gate) * up likewise, with the approximation by tanh. Source: transformers,
// T5DenseGatedActDense with gelu_new.
at::Tensor GatedGelu(const at::Tensor& gate_up);

}  // namespace lathe
