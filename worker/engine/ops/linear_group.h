#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/engine/ops/nf4_matrix.h"

// T tokens, I input width, O_i output width of layer i.

namespace lathe {

// Columns beside W are in multiples of this: 16 bytes of BF16.
inline constexpr int64_t kColumnMultiple = 8;

// Frozen linear layers that share their input: dense (widened_product.h), or every layer as 4-bit
// codes. Cheap to copy.
struct LinearGroup {
  at::Tensor weight;                  // [sum O_i, I], the layers below each other. Or undefined:
  std::vector<int64_t> out_features;  // O_i.
  at::Tensor bias = {};               // [sum O_i]. Undefined: none.
  std::vector<Nf4Matrix> quantized = {};  // The layers, instead of `weight`.
  int64_t spare_columns = 0;  // Of memory after every row of `weight`, for AppendedProduct().

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
// x W^T + d b, rounded once: the product of [x, d] with [W, b^T], whose last columns are written to
// the spare ones of `weight`, or beside the values of a 4-bit layer. x_and_d [T, I + R], b
// [R, sum O_i]. REQUIRES: TakesColumns().
at::Tensor AppendedProduct(const at::Tensor& x_and_d, const at::Tensor& b,
                           const LinearGroup& group);
bool TakesColumns(const LinearGroup& group, const at::Tensor& x, int64_t columns);

// The products added to what is there.
void AddGroupProduct(const at::Tensor& y, const at::Tensor& x, const LinearGroup& group);
void AddGroupBackProduct(const at::Tensor& grad_x, const at::Tensor& g, const LinearGroup& group);

}  // namespace lathe
