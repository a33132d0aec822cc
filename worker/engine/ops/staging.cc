#include "worker/engine/ops/staging.h"

#include <ATen/ATen.h>

namespace lathe {

at::Tensor Stage(const std::vector<int32_t>& values, at::Device device) {
  const at::Tensor host = at::tensor(at::ArrayRef<int32_t>(values), at::kInt);
  if (device.is_cpu()) return host;
  return host.pin_memory().to(device, at::kInt, /*non_blocking=*/true);
}

}  // namespace lathe
