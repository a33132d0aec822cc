#include "worker/engine/ops/device_kernels.h"

#include <atomic>

namespace lathe {
namespace {

std::atomic<const DeviceKernels*>& Current() {
  static std::atomic<const DeviceKernels*> kernels = nullptr;
  return kernels;
}

}  // namespace

void UseDeviceKernels(const DeviceKernels* kernels) { Current() = kernels; }

const DeviceKernels* DeviceKernelsFor(const at::Tensor& x) {
  if (!x.is_cuda()) return nullptr;
  const DeviceKernels* kernels = Current();
  return kernels != nullptr && kernels->Fit(x) ? kernels : nullptr;
}

}  // namespace lathe
