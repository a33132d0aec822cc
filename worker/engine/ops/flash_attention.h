#pragma once

#include <ATen/core/Tensor.h>

#include "worker/engine/ops/attention.h"

namespace lathe {

// PackedAttention by libtorch's FlashAttention kernels, which know documents by their cumulative
// lengths. They exist for GPUs, BF16 and F16 alone, for heads of at most 256 values in eights.
bool HasFlashAttention(const at::Tensor& qkv, const HeadShape& shape);

// `cumulative`: document_begin, I32 on the device. `longest`: tokens of the longest document.
// REQUIRES: HasFlashAttention(qkv, shape).
at::Tensor FlashAttention(const at::Tensor& qkv, const RopeTable& rope, const HeadShape& shape,
                          const at::Tensor& cumulative, int64_t longest);

}  // namespace lathe
