#pragma once

#include <ATen/core/Tensor.h>

// Products with a frozen matrix W [O, I] that is held in the type of x or as BF16. Then a few of
// its rows at a time are widened to the type of x: BF16 products on a CPU without instructions for
// them are several times slower than F32 ones. No gradient is formed.

namespace lathe {

// out [T, O] = x W^T, x [T, I].
void ProductInto(const at::Tensor& out, const at::Tensor& x, const at::Tensor& weight);
// out [T, I] = g W, g [T, O]: the gradient of x.
void BackProductInto(const at::Tensor& out, const at::Tensor& g, const at::Tensor& weight);
// The same added to what is there.
void AddProductInto(const at::Tensor& out, const at::Tensor& x, const at::Tensor& weight);
void AddBackProductInto(const at::Tensor& out, const at::Tensor& g, const at::Tensor& weight);

}  // namespace lathe
