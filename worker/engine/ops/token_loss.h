#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

// The language-model head and its loss, without ever holding all logits.
// N labels, D model width, V vocabulary.

namespace lathe {

// Rows of logits that exist at a time: on the CPU, where they should stay in its caches, and on a
// GPU, which needs more to be busy.
inline constexpr int64_t kLossChunk = 256;
inline constexpr int64_t kDeviceLossChunk = 2048;

// Sum of -log softmax(hidden weight^T)[label], a 64-bit scalar. hidden [N, D], weight [V, D] frozen
// (widened_product.h) or trained, labels [N] whole numbers in [0, V). The gradients with respect to
// `hidden` and, if it requires one, to `weight` are computed beside the loss, chunk by chunk, and
// are exact. `chunk` 0: one of these. Source of the method: Liger Kernel, fused linear cross
// entropy.
at::Tensor TokenLossSum(const at::Tensor& hidden, const at::Tensor& weight,
                        const at::Tensor& labels, int64_t chunk = 0);

struct TokenLossStats {
  double loss = 0;
  int64_t correct = 0;  // Labels with the highest logit.
};
TokenLossStats MeasureTokenLoss(const at::Tensor& hidden, const at::Tensor& weight,
                                const at::Tensor& labels, int64_t chunk = 0);

}  // namespace lathe
