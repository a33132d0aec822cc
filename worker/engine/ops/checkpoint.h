#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lathe {

// Activation checkpointing (Chen et al., "Training deep nets with sublinear memory cost", 2016):
// body(inputs), of which only the inputs are kept; backward computes it again. The gradients have
// the bits of body(inputs) itself if `body` is a pure function of them, of what it holds by value
// and of leaves that do not change in between. What is no leaf and has a gradient is an input, and
// so is a leaf that several bodies use: hooks on its gradient are called once per body. REQUIRES:
// `body` returns a new tensor, and what it refers to lives until backward has run. Without grad
// mode it is body(inputs).
at::Tensor Checkpoint(const std::vector<at::Tensor>& inputs,
                      std::function<at::Tensor(const std::vector<at::Tensor>&)> body);

}  // namespace lathe
