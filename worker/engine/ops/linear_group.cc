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
  return {.weight = Dense(i), .out_features = {out_features[i]}, .spare_columns = spare_columns};
}

LinearGroup LinearGroup::WithoutBias() const {
  return {.weight = weight,
          .out_features = out_features,
          .quantized = quantized,
          .spare_columns = spare_columns};
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
  AddGroupBackProduct(grad_x, g, group);
  return grad_x;
}

bool TakesColumns(const LinearGroup& group, const at::Tensor& x, int64_t columns) {
  if (group.quantized.empty()) {
    return columns <= group.spare_columns && group.weight.scalar_type() == x.scalar_type();
  }
  return HasStridedDequantize(group.quantized[0], x) && columns % kColumnMultiple == 0;
}

at::Tensor AppendedProduct(const at::Tensor& x_and_d, const at::Tensor& b,
                           const LinearGroup& group) {
  const int64_t width = x_and_d.size(1);
  if (group.quantized.empty()) {
    const at::Tensor& weight = group.weight;
    const at::Tensor wide =
        weight.as_strided({weight.size(0), width}, weight.strides(), weight.storage_offset());
    wide.narrow(1, weight.size(1), b.size(0)).copy_(b.t());
    return Multiply(x_and_d, wide.t());
  }
  const at::Tensor y = at::empty({x_and_d.size(0), b.size(1)}, x_and_d.options());
  int64_t begin = 0;
  for (const Nf4Matrix& layer : group.quantized) {
    const at::Tensor wide = at::empty({layer.rows, width}, x_and_d.options());
    DequantizeInto(layer, wide.narrow(1, 0, layer.cols));
    wide.narrow(1, layer.cols, b.size(0)).copy_(b.narrow(1, begin, layer.rows).t());
    MultiplyInto(y.narrow(1, begin, layer.rows), x_and_d, wide.t());
    begin += layer.rows;
  }
  return y;
}

void AddGroupProduct(const at::Tensor& y, const at::Tensor& x, const LinearGroup& group) {
  if (group.quantized.empty()) return AddProductInto(y, x, group.weight);
  ForEachRows(group, x.scalar_type(), [&](int64_t column, const at::Tensor& rows) {
    AddProduct(y.narrow(1, column, rows.size(0)), x, rows.t());
  });
}

void AddGroupBackProduct(const at::Tensor& grad_x, const at::Tensor& g, const LinearGroup& group) {
  if (group.quantized.empty()) return AddBackProductInto(grad_x, g, group.weight);
  ForEachRows(group, g.scalar_type(), [&](int64_t column, const at::Tensor& rows) {
    AddProduct(grad_x, g.narrow(1, column, rows.size(0)), rows);
  });
}

}  // namespace lathe
