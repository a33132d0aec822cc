#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/engine/ops/linear_group.h"

// Frozen linear layers that share their input, each with an optional LoRA update:
//   y_i = W_i x + b_i + scale * B_i (A_i dropout_i(x))
// Source: peft:src/peft/tuners/lora/layer.py, class Linear. No gradient is formed for W and b.

namespace lathe {

// T tokens, I input width, O_i output width of layer i, r rank.

// Update of one layer; undefined tensors: none.
struct LoraPair {
  at::Tensor a;               // [r, I]
  at::Tensor b;               // [O_i, r]
  at::Tensor magnitude = {};  // [O_i], dora_linear.h. Undefined: plain LoRA.
};

struct LoraUpdate {
  std::vector<LoraPair> pairs;  // One per layer of the group.
  double scale = 1;             // AdapterConfig::Scale().
  double dropout = 0;           // Share of inputs of A that are zeroed; 0 disables it.
  uint64_t dropout_seed = 0;    // The masks are a pure function of this and the layer's place.
};

// x [T, I] -> [T, sum O_i]. `update` null: the layers alone; if their weight requires a gradient
// they are not frozen but a TrainedLinear.
at::Tensor LoraLinear(const at::Tensor& x, const LinearGroup& group, const LoraUpdate* update);

// [T, I] of 0 and 1 / (1 - dropout): what LoraLinear multiplies the input of A_i with.
at::Tensor DropoutMask(const at::Tensor& like, double dropout, uint64_t seed, int64_t layer);

}  // namespace lathe
