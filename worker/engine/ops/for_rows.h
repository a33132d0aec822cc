#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

namespace lathe {

// Whether row_kernels.h can compute with x: what lies elsewhere or has 16 bits goes through
// libtorch's operations.
inline bool HasRowKernels(const at::Tensor& x) {
  return x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble);
}

// Calls body(row) for rows [0, count), split among ATen's threads. Rows are independent, so the
// result does not depend on the split. `width`: values that a row touches.
template <typename Body>
void ForRows(int64_t count, int64_t width, const Body& body) {
  constexpr int64_t kGrainValues = 16384;
  const int64_t grain = std::max<int64_t>(1, kGrainValues / std::max<int64_t>(1, width));
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

}  // namespace lathe
