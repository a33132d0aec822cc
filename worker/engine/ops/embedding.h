#pragma once

#include <ATen/core/Tensor.h>

// T tokens, V vocabulary, D model width.

namespace lathe {

// Rows `ids` [T], whole numbers in [0, V), of weight [V, D] -> [T, D]. If the weight is trained its
// gradient is dense: the rows of one token are summed.
at::Tensor Embedding(const at::Tensor& weight, const at::Tensor& ids);

}  // namespace lathe
