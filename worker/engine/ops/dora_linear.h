#pragma once

#include <ATen/core/Tensor.h>

#include "worker/engine/ops/lora_linear.h"

// Weight-decomposed update (DoRA): the direction of W_i + s B_i A_i, with a trained length per
// output row. With m_i = LoraPair::magnitude and the row norms n_i = ||W_i + s B_i A_i||,
//   W'_i = (m_i / n_i) (W_i + s B_i A_i)
//   y_i  = W_i x + (m_i / n_i - 1) W_i d + (m_i / n_i) s B_i A_i d,   d = dropout_i(x),
// which is W'_i x without dropout. n_i is a constant for the gradient. Sources: Liu et al., "DoRA",
// 2024, section 4.3; peft:src/peft/tuners/lora/dora.py, class DoraLinearLayer.

namespace lathe {

// n of one layer, [O]: weight [O, I], without gradient.
at::Tensor RowNorms(const at::Tensor& weight, const LoraPair& pair, double scale);

// x [T, I] -> [T, sum O_i], without the group's bias. REQUIRES: every pair of `update` that has A
// and B has a magnitude.
at::Tensor DoraLinear(const at::Tensor& x, const LinearGroup& group, const LoraUpdate& update);

}  // namespace lathe
