#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace lathe {

// What ExactSums::Add does on a GPU, but that a value over the limit of fixed_point.h counts as
// anything. Returns the largest magnitude, [], F64. On the CPU for tests.
at::Tensor AddExactByAten(const at::Tensor& gradients, const at::Tensor& sums);

// Sums of the flat gradients [P] over micro-batches, as 64-bit whole numbers: the same bits in
// whatever order micro-batches and ranks are added. On the CPU by fixed_point.h, elsewhere by
// libtorch's operations to the same numbers. Thread-compatible.
class ExactSums {
 public:
  // Shares `gradients`, F32 or F64, with the caller.
  explicit ExactSums(at::Tensor gradients);

  void SetZero() { sums_.zero_(); }
  // Adds `size` gradients of one micro-batch from `begin` on, and makes them zero.
  void Add(int64_t begin, int64_t size);
  // The largest magnitude that was added since the last call, [], F64, beside the gradients: a GPU
  // is not waited for. Not a number if one of them was none.
  at::Tensor TakeLargest();
  // A view [size]: what the ranks add up.
  at::Tensor Range(int64_t begin, int64_t size) const { return sums_.narrow(0, begin, size); }
  // gradients = sums. They are right if the largest magnitudes of all that was added add up to at
  // most kMaxTotal.
  void Read();

  // The limit of fixed_point.h, and room for the roundings on the way there.
  static constexpr double kMaxTotal = 524287;

 private:
  at::Tensor gradients_;
  at::Tensor sums_;  // [P], int64.
  at::Tensor largest_;
};

}  // namespace lathe
