#include "worker/engine/ops/row_pieces.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace lathe {
namespace {

constexpr int64_t kPieceValues = int64_t{1} << 20;

// The thread's own, kept: a new one for every product would leave holes among the activations,
// which live longer (SmolLM2-135M: 150 MB).
at::Tensor Scratch(int64_t num_values) {
  thread_local at::Tensor scratch;
  if (!scratch.defined() || scratch.numel() < num_values) {
    scratch = at::empty({num_values}, at::kFloat);
  }
  return scratch;
}

}  // namespace

void ForEachPiece(const RowPieces& matrix,
                  const std::function<void(int64_t first, const at::Tensor& rows)>& fill,
                  const std::function<void(int64_t first, const at::Tensor& rows)>& use) {
  const int64_t fitting = kPieceValues / matrix.cols / matrix.multiple * matrix.multiple;
  const int64_t step = std::min(std::max(matrix.multiple, fitting), matrix.rows);
  const at::Tensor buffer = Scratch(step * matrix.cols);
  for (int64_t first = 0; first < matrix.rows; first += step) {
    const int64_t count = std::min(step, matrix.rows - first);
    const at::Tensor rows = buffer.narrow(0, 0, count * matrix.cols).view({count, matrix.cols});
    fill(first, rows);
    use(first, rows.to(matrix.dtype));
  }
}

}  // namespace lathe
