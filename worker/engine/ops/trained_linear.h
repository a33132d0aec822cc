#pragma once

#include <ATen/core/Tensor.h>

// Linear layers whose own weights are trained.
// T tokens, I input width, O output width of all layers together.

namespace lathe {

// x W^T + b: x [T, I], weight [O, I], bias [O] or undefined -> [T, O]. Gradients flow to all three:
// dx = g W, dW = g^T x, db = sum of g over the tokens. Where weight.grad() is there already, dW is
// added to it by the product itself; hooks for accumulated gradients are called as ever.
at::Tensor TrainedLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace lathe
