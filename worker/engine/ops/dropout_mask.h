#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace lathe {

// Sets every value of `mask` to 0 or 1 / (1 - dropout): value i by UniformAt(stream_key, i)
// (counter_random.h), with ATen operations alone, so on any device and for any type. The same bits
// as the loop of a CPU. REQUIRES: contiguous.
void FillDropoutMask(at::Tensor& mask, double dropout, uint64_t stream_key);

}  // namespace lathe
