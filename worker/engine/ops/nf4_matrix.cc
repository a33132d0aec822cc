#include "worker/engine/ops/nf4_matrix.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <span>

#include "worker/engine/ops/device_kernels.h"
#include "worker/engine/ops/row_pieces.h"
#include "worker/formats/nf4.h"

namespace lathe {
namespace {

constexpr int64_t kBlock = kNf4Block;
constexpr int64_t kGrainBlocks = 256;

template <typename T>
std::span<T> Span(const at::Tensor& tensor) {
  return {static_cast<T*>(tensor.mutable_data_ptr()), static_cast<size_t>(tensor.numel())};
}

// Calls `work(first value, number of values)` for ranges of whole blocks, in parallel.
template <typename Work>
void InBlocks(int64_t num_values, const Work& work) {
  const auto num_blocks = static_cast<int64_t>(Nf4Blocks(static_cast<size_t>(num_values)));
  at::parallel_for(0, num_blocks, kGrainBlocks, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kBlock;
    work(static_cast<size_t>(first),
         static_cast<size_t>(std::min(num_values, end * kBlock) - first));
  });
}

Nf4View ViewOf(const Nf4Matrix& matrix) {
  return {.codes = Span<const uint8_t>(matrix.codes),
          .scale_indices = Span<const uint8_t>(matrix.scale_indices),
          .nested = Span<const float>(matrix.nested),
          .mean = matrix.mean};
}

// REQUIRES: first_row * cols is a multiple of the block.
void FillRows(const Nf4Matrix& matrix, int64_t first_row, const at::Tensor& rows) {
  const Nf4View view = ViewOf(matrix);
  const std::span<float> out = Span<float>(rows);
  const auto begin = static_cast<size_t>(first_row * matrix.cols);
  InBlocks(rows.numel(), [&](size_t first, size_t count) {
    DequantizeNf4(view, begin + first, out.subspan(first, count));
  });
}

// table[indices], on the device of the indices.
template <size_t N>
at::Tensor Lookup(const std::array<float, N>& table, const at::Tensor& indices) {
  const at::Tensor there =
      at::tensor(at::ArrayRef<float>(table.data(), N), at::kFloat).to(indices.device());
  return there.index_select(0, indices.to(at::kInt));
}

// Every value `times` times in a row, `count` in all.
at::Tensor EachTimes(const at::Tensor& values, int64_t times, int64_t count) {
  return values.unsqueeze(1).expand({values.size(0), times}).reshape({-1}).narrow(0, 0, count);
}

}  // namespace

Nf4Matrix QuantizeNf4(const at::Tensor& weight) {
  TORCH_CHECK(weight.dim() == 2 && weight.scalar_type() == at::kFloat && weight.is_contiguous(),
              "NF4 needs a contiguous F32 matrix");
  const at::NoGradGuard no_grad;
  const auto num_values = static_cast<size_t>(weight.numel());
  const auto bytes = [](size_t count) {
    return at::empty({static_cast<int64_t>(count)}, at::TensorOptions().dtype(at::kByte));
  };
  const at::Tensor scales = at::empty({static_cast<int64_t>(Nf4Blocks(num_values))}, at::kFloat);
  Nf4Matrix matrix = {
      .codes = bytes(Nf4CodeBytes(num_values)),
      .scale_indices = bytes(Nf4Blocks(num_values)),
      .nested =
          at::empty({static_cast<int64_t>(Nf4NestedBlocks(Nf4Blocks(num_values)))}, at::kFloat),
      .rows = weight.size(0),
      .cols = weight.size(1)};
  const std::span<const float> values(weight.const_data_ptr<float>(), num_values);
  InBlocks(weight.numel(), [&](size_t first, size_t count) {
    QuantizeNf4(values.subspan(first, count),
                Span<uint8_t>(matrix.codes).subspan(first / 2, Nf4CodeBytes(count)),
                Span<float>(scales).subspan(first / kNf4Block, Nf4Blocks(count)));
  });
  matrix.mean = scales.mean().item<float>();
  QuantizeNf4Scales(Span<const float>(scales), matrix.mean, Span<uint8_t>(matrix.scale_indices),
                    Span<float>(matrix.nested));
  return matrix;
}

at::Tensor DequantizeThere(const Nf4Matrix& matrix, at::ScalarType dtype) {
  const int64_t num_values = matrix.rows * matrix.cols;
  const at::Tensor scales =
      Lookup(DynamicMap(), matrix.scale_indices)
          .mul_(EachTimes(matrix.nested, kNf4NestedBlock, matrix.scale_indices.numel()))
          .add_(matrix.mean);
  const at::Tensor pairs =
      at::stack({at::bitwise_right_shift(matrix.codes, 4), at::bitwise_and(matrix.codes, 15)}, 1);
  at::Tensor values = Lookup(Nf4Codes(), pairs.view({-1}).narrow(0, 0, num_values));
  values.mul_(EachTimes(scales, kBlock, num_values));
  return values.view({matrix.rows, matrix.cols}).to(dtype);
}

bool HasStridedDequantize(const Nf4Matrix& matrix, const at::Tensor& like) {
  return matrix.cols % kBlock == 0 && DeviceKernelsFor(like) != nullptr;
}

void DequantizeInto(const Nf4Matrix& matrix, const at::Tensor& out) {
  DeviceKernelsFor(out)->DequantizeNf4(matrix, out);
}

namespace {

at::Tensor DequantizeOnDevice(const Nf4Matrix& matrix, at::ScalarType dtype) {
  if (dtype != at::kBFloat16) return DequantizeThere(matrix, dtype);
  at::Tensor out = at::empty({matrix.rows, matrix.cols}, matrix.codes.options().dtype(dtype));
  if (!HasStridedDequantize(matrix, out)) return DequantizeThere(matrix, dtype);
  DequantizeInto(matrix, out);
  return out;
}

}  // namespace

Nf4Matrix ToDevice(const Nf4Matrix& matrix, at::Device device) {
  Nf4Matrix there = matrix;
  for (at::Tensor* part : {&there.codes, &there.scale_indices, &there.nested}) {
    *part = part->to(device);
  }
  return there;
}

at::Tensor Dequantize(const Nf4Matrix& matrix, at::ScalarType dtype) {
  if (!matrix.codes.is_cpu()) return DequantizeOnDevice(matrix, dtype);
  const at::Tensor rows = at::empty({matrix.rows, matrix.cols}, at::kFloat);
  FillRows(matrix, 0, rows);
  return rows.to(dtype);
}

void ForEachPiece(const Nf4Matrix& matrix, at::ScalarType dtype,
                  const std::function<void(int64_t first, const at::Tensor& rows)>& use) {
  if (!matrix.codes.is_cpu()) {
    use(0, DequantizeOnDevice(matrix, dtype));
    return;
  }
  // A piece starts with a block, whatever the width.
  const RowPieces pieces = {
      .rows = matrix.rows, .cols = matrix.cols, .multiple = kBlock, .dtype = dtype};
  ForEachPiece(
      pieces, [&](int64_t first, const at::Tensor& rows) { FillRows(matrix, first, rows); }, use);
}

}  // namespace lathe
