#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lathe {

// `values` as I32 on `device`. To a GPU they go through pinned memory, and the CPU does not wait.
at::Tensor Stage(const std::vector<int32_t>& values, at::Device device);

}  // namespace lathe
