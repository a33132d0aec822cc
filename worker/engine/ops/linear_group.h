#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/engine/ops/nf4_matrix.h"

// T tokens, I input width, O_i output width of layer i.

namespace lathe {

// Frozen linear layers that share their input: dense (widened_product.h), or every layer as 4-bit
// codes. Cheap to copy.
struct LinearGroup {
  at::Tensor weight;                  // [sum O_i, I], the layers below each other. Or undefined:
  std::vector<int64_t> out_features;  // O_i.
  at::Tensor bias = {};               // [sum O_i]. Undefined: none.
  std::vector<Nf4Matrix> quantized = {};  // The layers, instead of `weight`.

  // W_i as `dtype`, [O_i, I].
  at::Tensor Rows(size_t i, at::ScalarType dtype) const;
  LinearGroup LayerWithoutBias(size_t i) const;
  LinearGroup WithoutBias() const;
  // W_i as it is held. REQUIRES: the group is dense.
  at::Tensor Dense(size_t i) const;
};

// x W^T, [T, I] -> [T, sum O_i]. No gradient is formed.
at::Tensor Product(const at::Tensor& x, const LinearGroup& group);
// g W, [T, sum O_i] -> [T, I]: the gradient of x.
at::Tensor BackProduct(const at::Tensor& g, const LinearGroup& group);

}  // namespace lathe
