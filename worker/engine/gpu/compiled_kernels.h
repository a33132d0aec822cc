#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace lathe {

// Machine code (CUBIN) of kernels.cu for GPUs of compute capability `major`.`minor`, made by NVRTC:
// no compiler of CUDA is needed, and no GPU. Takes about a second. Internal: NVRTC's words.
absl::StatusOr<std::string> CompileKernels(int major, int minor);

}  // namespace lathe
