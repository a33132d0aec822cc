#pragma once

#include <ATen/core/Tensor.h>

// elementwise.h by libtorch's operations alone: for tensors that are not on the CPU, or of 16 bits,
// which are widened to 32 where sums need it, as transformers does.

namespace lathe {

at::Tensor RmsNormAten(const at::Tensor& x, const at::Tensor& weight, double eps);
at::Tensor NormHeadsAten(const at::Tensor& qkv, const at::Tensor& weight, double eps);
at::Tensor SwiGluAten(const at::Tensor& gate_up);

}  // namespace lathe
