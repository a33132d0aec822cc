#pragma once

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

namespace lathe {

// A matrix [rows, cols] that exists a few rows at a time.
struct RowPieces {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t multiple = 1;  // Of rows in every piece but the last.
  at::ScalarType dtype;  // That `use` gets: F32 or F64.
};

// For one piece after the other: fill(first row, F32 [n, cols]), then use(first row, the same as
// `dtype`). A piece stays in the processor's cache in between and is valid during its calls only.
// REQUIRES: `use` does not call this again.
void ForEachPiece(const RowPieces& matrix,
                  const std::function<void(int64_t first, const at::Tensor& rows)>& fill,
                  const std::function<void(int64_t first, const at::Tensor& rows)>& use);

}  // namespace lathe
