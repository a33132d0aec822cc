#include "worker/engine/ops/linear_group.h"

#include <ATen/ATen.h>

#include <cstddef>
#include <functional>
#include <numeric>

#include "worker/engine/ops/matrix_product.h"
#include "worker/engine/ops/widened_product.h"

namespace lathe {
namespace {

// Calls `use(first column of y, rows of W)` for all layers, a few rows at a time.
void ForEachRows(const LinearGroup& group, at::ScalarType dtype,
                 const std::function<void(int64_t column, const at::Tensor& rows)>& use) {
  int64_t begin = 0;
  for (const Nf4Matrix& layer : group.quantized) {
    ForEachPiece(layer, dtype,
                 [&](int64_t first, const at::Tensor& rows) { use(begin + first, rows); });
    begin += layer.rows;
  }
}

}  // namespace

at::Tensor LinearGroup::Rows(size_t i, at::ScalarType dtype) const {
  return quantized.empty() ? Dense(i).to(dtype) : Dequantize(quantized[i], dtype);
}

at::Tensor LinearGroup::Dense(size_t i) const {
  const auto layer = out_features.begin() + static_cast<std::ptrdiff_t>(i);
  return weight.narrow(0, std::accumulate(out_features.begin(), layer, int64_t{0}), *layer);
}

LinearGroup LinearGroup::LayerWithoutBias(size_t i) const {
  if (!quantized.empty()) {
    return {.weight = {}, .out_features = {out_features[i]}, .quantized = {quantized[i]}};
  }
  return {.weight = Dense(i), .out_features = {out_features[i]}};
}

LinearGroup LinearGroup::WithoutBias() const {
  return {.weight = weight, .out_features = out_features, .quantized = quantized};
}

at::Tensor Product(const at::Tensor& x, const LinearGroup& group) {
  const int64_t width =
      std::accumulate(group.out_features.begin(), group.out_features.end(), int64_t{0});
  at::Tensor y = at::empty({x.size(0), width}, x.options());
  if (group.quantized.empty()) {
    ProductInto(y, x, group.weight);
    return y;
  }
  ForEachRows(group, x.scalar_type(), [&](int64_t column, const at::Tensor& rows) {
    MultiplyInto(y.narrow(1, column, rows.size(0)), x, rows.t());
  });
  return y;
}

at::Tensor BackProduct(const at::Tensor& g, const LinearGroup& group) {
  if (group.quantized.empty()) {
    at::Tensor grad_x = at::empty({g.size(0), group.weight.size(1)}, g.options());
    BackProductInto(grad_x, g, group.weight);
    return grad_x;
  }
  at::Tensor grad_x = at::zeros({g.size(0), group.quantized[0].cols}, g.options());
  ForEachRows(group, g.scalar_type(), [&](int64_t column, const at::Tensor& rows) {
    AddProduct(grad_x, g.narrow(1, column, rows.size(0)), rows);
  });
  return grad_x;
}

}  // namespace lathe
