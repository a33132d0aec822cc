#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "worker/engine/ops/attention.h"

// The steps of attention.cc by libtorch's operations alone: for tensors that are not on the CPU, or
// of 16 bits. T tokens, K key heads, G query heads per key head, E head width; a stack is [K, G *
// rows, E].

namespace lathe {

// out = x [T, any, E] with every head turned by the table's angles, or back. out may be x.
void RotateIntoAten(const at::Tensor& x, const RopeTable& rope, bool inverse,
                    const at::Tensor& out);

// Rows [begin, end) of x [T, K * G, E] as [rows, K, G, E], a view.
at::Tensor UnstackedViewAten(const at::Tensor& x, int64_t begin, int64_t end, int64_t num_kv_heads);
// A stack of rows [begin, end) of `out` in the same order, a view.
at::Tensor StackedViewAten(const at::Tensor& stacked, const at::Tensor& out, int64_t begin,
                           int64_t end);
// Those rows as a stack, copied.
at::Tensor StackGroupsAten(const at::Tensor& x, int64_t begin, int64_t end, int64_t num_kv_heads);

// softmax(scale * scores), [K, G * rows, keys]; the last `rows` keys belong to the rows themselves,
// and row i sees them up to i. Overwrites `scores`.
at::Tensor CausalSoftmaxAten(const at::Tensor& scores, int64_t rows, double scale);

}  // namespace lathe
