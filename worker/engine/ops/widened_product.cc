#include "worker/engine/ops/widened_product.h"

#include <ATen/ATen.h>

#include "worker/engine/ops/matrix_product.h"
#include "worker/engine/ops/row_pieces.h"

namespace lathe {
namespace {

// Calls use(first row, rows as `dtype`).
template <typename Use>
void ForEachWidened(const at::Tensor& weight, at::ScalarType dtype, const Use& use) {
  ForEachPiece(
      RowPieces{.rows = weight.size(0), .cols = weight.size(1), .dtype = dtype},
      [&](int64_t first, const at::Tensor& rows) {
        rows.copy_(weight.narrow(0, first, rows.size(0)));
      },
      use);
}

}  // namespace

void ProductInto(const at::Tensor& out, const at::Tensor& x, const at::Tensor& weight) {
  if (weight.scalar_type() == x.scalar_type()) {
    MultiplyInto(out, x, weight.t());
    return;
  }
  ForEachWidened(weight, x.scalar_type(), [&](int64_t first, const at::Tensor& rows) {
    MultiplyInto(out.narrow(1, first, rows.size(0)), x, rows.t());
  });
}

void BackProductInto(const at::Tensor& out, const at::Tensor& g, const at::Tensor& weight) {
  if (weight.scalar_type() == g.scalar_type()) {
    MultiplyInto(out, g, weight);
    return;
  }
  out.zero_();
  AddBackProductInto(out, g, weight);
}

void AddProductInto(const at::Tensor& out, const at::Tensor& x, const at::Tensor& weight) {
  if (weight.scalar_type() == x.scalar_type()) return AddProduct(out, x, weight.t());
  ForEachWidened(weight, x.scalar_type(), [&](int64_t first, const at::Tensor& rows) {
    AddProduct(out.narrow(1, first, rows.size(0)), x, rows.t());
  });
}

void AddBackProductInto(const at::Tensor& out, const at::Tensor& g, const at::Tensor& weight) {
  if (weight.scalar_type() == g.scalar_type()) return AddProduct(out, g, weight);
  ForEachWidened(weight, g.scalar_type(), [&](int64_t first, const at::Tensor& rows) {
    AddProduct(out, g.narrow(1, first, rows.size(0)), rows);
  });
}

}  // namespace lathe
