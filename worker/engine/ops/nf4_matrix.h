#pragma once

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

namespace lathe {

// A frozen matrix W [O, I] as 4-bit codes with doubly quantised scales (worker/formats/nf4.h), 0.52
// bytes per value. Values exist only while one is used, a few rows at a time. Cheap to copy: copies
// share the bytes, which nobody changes.
struct Nf4Matrix {
  at::Tensor codes;          // U8 [ceil(O I / 2)]
  at::Tensor scale_indices;  // U8 [blocks of 64]
  at::Tensor nested;         // F32 [blocks of 256 scales]
  float mean = 0;
  int64_t rows = 0;
  int64_t cols = 0;
};

// weight [O, I], F32, contiguous, finite. The mean of the scales is torch.mean's.
Nf4Matrix QuantizeNf4(const at::Tensor& weight);

// [O, I] of `dtype`: F32, F64 holding the same numbers, or rounded to BF16.
at::Tensor Dequantize(const Nf4Matrix& matrix, at::ScalarType dtype);

// The same numbers from ATen operations, on the device where the codes lie.
at::Tensor DequantizeThere(const Nf4Matrix& matrix, at::ScalarType dtype);

// Into rows of BF16 on a GPU, which may lie apart. REQUIRES: HasStridedDequantize() for tensors
// like `out`.
void DequantizeInto(const Nf4Matrix& matrix, const at::Tensor& out);
bool HasStridedDequantize(const Nf4Matrix& matrix, const at::Tensor& like);

Nf4Matrix ToDevice(const Nf4Matrix& matrix, at::Device device);

// Calls `use` with rows [first, first + rows.size(0)) one piece after the other, from the first row
// to the last; on a GPU all at once. A piece is valid during its call only. REQUIRES: `use` does
// not call this again.
void ForEachPiece(const Nf4Matrix& matrix, at::ScalarType dtype,
                  const std::function<void(int64_t first, const at::Tensor& rows)>& use);

}  // namespace lathe
