#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/engine/ops/device_kernels.h"

namespace lathe {

// Compiles and loads the kernels for this CUDA device. Internal: the compiler's or the driver's
// words.
absl::StatusOr<std::unique_ptr<DeviceKernels>> LoadDeviceKernels(int device);

}  // namespace lathe
