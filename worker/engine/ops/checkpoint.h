#pragma once

#include <functional>

#include <ATen/core/Tensor.h>

namespace lathe {

// Activation checkpointing (Chen et al., "Training deep nets with sublinear memory cost", 2016):
// body(x), of which only x is kept; backward computes it again. The gradients have the bits of
// body(x) itself if `body` is a pure function of x, of what it holds by value and of leaves that do
// not change in between. REQUIRES: `body` returns a new tensor, and what it refers to lives until
// backward has run. Without grad mode it is body(x).
at::Tensor Checkpoint(const at::Tensor& x, std::function<at::Tensor(const at::Tensor&)> body);

}  // namespace lathe
