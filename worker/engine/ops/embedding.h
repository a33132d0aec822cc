#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

// T tokens, V vocabulary, D model width.

namespace lathe {

// Rows `ids` [T], whole numbers in [0, V), of weight [V, D] -> [T, D]. If the weight is trained its
// gradient is dense: the rows of one token are summed. The row `padding_row` gets none, as of
// torch.nn.Embedding's padding_idx; -1: every row does.
at::Tensor Embedding(const at::Tensor& weight, const at::Tensor& ids, int64_t padding_row = -1);

}  // namespace lathe
