#include "worker/engine/gpu/device_kernels_cuda.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/engine/gpu/compiled_kernels.h"

namespace lathe {
namespace {

// As in kernels.cu.
constexpr int64_t kPack = 8;
constexpr int64_t kWarp = 32;
constexpr int64_t kThreads = 256;
constexpr int64_t kRowThreads = 1024;  // At most, of a row.
constexpr int64_t kCodesPerThread = 16;

// In the order of kNames.
enum Kernel {
  kRmsNorm,
  kRmsNormGradient,
  kRotate,
  kSwiGlu,
  kSwiGluGradient,
  kAddBias,
  kCrossEntropy,
  kDequantizeNf4,
  kDropoutMask,
  kNumKernels
};
constexpr std::array<const char*, kNumKernels> kNames = {
    "RmsNorm", "RmsNormGradient", "Rotate",        "SwiGlu",     "SwiGluGradient",
    "AddBias", "CrossEntropy",    "DequantizeNf4", "DropoutMask"};

absl::Status CudaFault(absl::string_view what, cudaError_t error) {
  return absl::InternalError(absl::StrCat("GPU kernels: ", what, ": ", cudaGetErrorString(error)));
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whole warps, one pack per thread if they are enough.
int64_t ThreadsOfRow(int64_t width) {
  return std::min(kRowThreads, CeilDiv(width, kPack * kWarp) * kWarp);
}

void* Bits(const at::Tensor& tensor) { return tensor.mutable_data_ptr(); }

bool IsAligned(const at::Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % (kPack * sizeof(at::BFloat16)) == 0;
}

class CudaKernels final : public DeviceKernels {
 public:
  CudaKernels(int device, std::array<cudaKernel_t, kNumKernels> kernels)
      : device_(static_cast<c10::DeviceIndex>(device)), kernels_(kernels) {}

  bool Fit(const at::Tensor& x) const override {
    return x.get_device() == device_ && x.scalar_type() == at::kBFloat16 && x.dim() > 0 &&
           x.size(-1) % kPack == 0 && x.stride(-1) == 1 && IsAligned(x);
  }

  void RmsNorm(const at::Tensor& x, const at::Tensor& weight, int64_t head_width, double eps,
               const at::Tensor& y, const at::Tensor& inverse) const override {
    const int64_t heads = weight.numel() / head_width;
    Launch(kRmsNorm, x.size(0) * heads, ThreadsOfRow(head_width), Bits(x), Bits(weight),
           static_cast<float>(eps), static_cast<int>(heads), static_cast<int>(head_width),
           x.size(1), Bits(y), Bits(inverse));
  }

  void RmsNormGradient(const at::Tensor& grad_y, const at::Tensor& x, const at::Tensor& weight,
                       int64_t head_width, const at::Tensor& inverse,
                       const at::Tensor& grad_x) const override {
    const int64_t heads = weight.numel() / head_width;
    Launch(kRmsNormGradient, x.size(0) * heads, ThreadsOfRow(head_width), Bits(grad_y), Bits(x),
           Bits(weight), Bits(inverse), static_cast<int>(heads), static_cast<int>(head_width),
           x.size(1), Bits(grad_x));
  }

  void Rotate(const at::Tensor& x, const RopeTable& rope, bool inverse,
              const at::Tensor& y) const override {
    const auto count = static_cast<uint32_t>(x.numel() / 2);
    Launch(kRotate, CeilDiv(count, kThreads), kThreads, Bits(x), Bits(rope.cos), Bits(rope.sin),
           count, static_cast<int>(x.size(1)), static_cast<int>(x.size(2)),
           static_cast<int>(rope.cos.size(-1)), static_cast<int>(rope.interleaved),
           inverse ? -1.0F : 1.0F, x.stride(0), x.stride(1), y.stride(0), y.stride(1), Bits(y));
  }

  void SwiGlu(const at::Tensor& gate_up, const at::Tensor& y) const override {
    const auto count = static_cast<uint32_t>(y.numel() / kPack);
    Launch(kSwiGlu, CeilDiv(count, kThreads), kThreads, Bits(gate_up), count,
           static_cast<int>(y.size(1)), Bits(y));
  }

  void SwiGluGradient(const at::Tensor& grad_y, const at::Tensor& gate_up,
                      const at::Tensor& grad) const override {
    const auto count = static_cast<uint32_t>(grad_y.numel() / kPack);
    Launch(kSwiGluGradient, CeilDiv(count, kThreads), kThreads, Bits(grad_y), Bits(gate_up), count,
           static_cast<int>(grad_y.size(1)), Bits(grad));
  }

  void AddBias(const at::Tensor& y, const at::Tensor& bias) const override {
    const auto count = static_cast<uint32_t>(y.numel() / kPack);
    Launch(kAddBias, CeilDiv(count, kThreads), kThreads, Bits(y), Bits(bias), count,
           static_cast<int>(y.size(1)));
  }

  void CrossEntropy(const at::Tensor& logits, const at::Tensor& labels,
                    const at::Tensor& losses) const override {
    Launch(kCrossEntropy, logits.size(0), ThreadsOfRow(logits.size(1)), Bits(logits), Bits(labels),
           static_cast<int>(logits.size(1)), Bits(losses));
  }

  void DequantizeNf4(const Nf4Matrix& matrix, const at::Tensor& out) const override {
    const int64_t count = matrix.rows * matrix.cols / kCodesPerThread;
    Launch(kDequantizeNf4, CeilDiv(count, kThreads), kThreads, Bits(matrix.codes),
           Bits(matrix.scale_indices), Bits(matrix.nested), matrix.mean,
           static_cast<uint32_t>(count), static_cast<uint32_t>(matrix.cols), out.stride(0),
           Bits(out));
  }

  void DropoutMask(const at::Tensor& mask, double dropout, uint64_t stream_key) const override {
    // bits * 2^-53 < dropout, in whole numbers.
    const auto bound = static_cast<uint64_t>(std::ceil(std::ldexp(dropout, 53)));
    Launch(kDropoutMask, CeilDiv(mask.numel(), kPack * kThreads), kThreads, Bits(mask),
           mask.numel(), stream_key, bound, static_cast<float>(1 / (1 - dropout)));
  }

 private:
  // Arguments have the types of the kernel's parameters.
  template <typename... Arguments>
  void Launch(Kernel kernel, int64_t blocks, int64_t threads, Arguments... arguments) const {
    if (blocks == 0) return;
    const c10::cuda::CUDAGuard guard(device_);
    std::array<void*, sizeof...(Arguments)> pointers = {&arguments...};
    C10_CUDA_CHECK(cudaLaunchKernel(static_cast<const void*>(kernels_[kernel]),
                                    dim3(static_cast<unsigned>(blocks)),
                                    dim3(static_cast<unsigned>(threads)), pointers.data(), 0,
                                    c10::cuda::getCurrentCUDAStream(device_).stream()));
  }

  const c10::DeviceIndex device_;
  const std::array<cudaKernel_t, kNumKernels> kernels_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceKernels>> LoadDeviceKernels(int device) {
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
  cudaDeviceProp properties{};
  cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return CudaFault("device properties", error);
  LATHE_ASSIGN_OR_RETURN(const std::string code,
                         CompileKernels(properties.major, properties.minor));
  cudaLibrary_t library = nullptr;  // For as long as the process lives, as the driver.
  error = cudaLibraryLoadData(&library, code.data(), nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (error != cudaSuccess) return CudaFault("load", error);
  std::array<cudaKernel_t, kNumKernels> kernels{};
  for (int i = 0; i < kNumKernels; ++i) {
    error = cudaLibraryGetKernel(&kernels[i], library, kNames[i]);
    if (error != cudaSuccess) return CudaFault(kNames[i], error);
  }
  return std::make_unique<CudaKernels>(device, kernels);
}

}  // namespace lathe
