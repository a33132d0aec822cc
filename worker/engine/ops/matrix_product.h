#pragma once

#include <ATen/core/Tensor.h>

// Every large matrix product of the engine. F32 products go to oneDNN where the processor has
// AVX-512: MKL, which at::mm takes, uses AVX2 only on processors that are not Intel's
// (docs/decisions/0014-onednn-products.md). All others, F64, small ones and those of other devices
// go to at::mm. Which one is a pure function of shapes and processor, so runs stay reproducible bit
// by bit; results differ by rounding only. at::globalContext().setUserEnabledMkldnn(false) switches
// to at::mm alone. No gradient is recorded. Matrices are [rows, columns], or all three [batch,
// rows, columns].

namespace lathe {

at::Tensor Multiply(const at::Tensor& a, const at::Tensor& b);
// Of 16-bit factors in F32, not rounded to 16 bits; else Multiply(). Matrices.
at::Tensor MultiplyWide(const at::Tensor& a, const at::Tensor& b);

// out = a b. out may be a view with strides; it overlaps neither a nor b.
void MultiplyInto(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b);

// out += scale a b, likewise.
void AddProduct(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, double scale = 1);

}  // namespace lathe
