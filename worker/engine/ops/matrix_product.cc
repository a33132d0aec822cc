#include "worker/engine/ops/matrix_product.h"

#include <ATen/ATen.h>

#include <algorithm>

// Exported by libtorch_cpu, but in no header of it: result = beta result + alpha mat1 mat2 by
// oneDNN, beta 0 or 1. Source: pytorch, aten/src/ATen/native/mkldnn/Matmul.h.
namespace at::native {
void mkldnn_matmul(const Tensor& mat1, const Tensor& mat2, const Tensor& result, float beta,
                   float alpha);
}

namespace lathe {
namespace {

// oneDNN compiles a kernel when it first sees a shape (0.7 ms, measured): smaller products do not
// win that back. Thin ones are bound by memory, and oneDNN would copy the matrix first.
constexpr int64_t kMinWork = int64_t{1} << 22;
constexpr int64_t kMinSide = 8;

// What mkldnn_matmul asks for, but for AVX-NE-CONVERT: Intel's alone, where MKL is fast.
bool HasAvx512() {
  static const bool has = __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has;
}

bool UsesOneDnn(const at::Tensor& a, const at::Tensor& b) {
  if (!a.is_cpu() || a.scalar_type() != at::kFloat || !HasAvx512()) return false;
  if (!at::globalContext().userEnabledMkldnn()) return false;
  const int64_t sides = std::min({a.size(-2), a.size(-1), b.size(-1)});
  return sides >= kMinSide && a.numel() * b.size(-1) >= kMinWork;
}

}  // namespace

at::Tensor Multiply(const at::Tensor& a, const at::Tensor& b) {
  if (!UsesOneDnn(a, b)) return a.dim() == 3 ? at::bmm(a, b) : at::mm(a, b);
  std::vector<int64_t> shape = a.sizes().vec();
  shape.back() = b.size(-1);
  at::Tensor out = at::empty(shape, a.options().requires_grad(false));
  at::native::mkldnn_matmul(a, b, out, 0, 1);
  return out;
}

at::Tensor MultiplyWide(const at::Tensor& a, const at::Tensor& b) {
  if (!at::isReducedFloatingType(a.scalar_type())) return Multiply(a, b);
  // Only CUDA has the product with another type of result.
  return a.is_cuda() ? at::mm(a, b, at::kFloat) : Multiply(a.to(at::kFloat), b.to(at::kFloat));
}

void MultiplyInto(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  if (UsesOneDnn(a, b)) {
    at::native::mkldnn_matmul(a, b, out, 0, 1);
    return;
  }
  at::Tensor result = out;
  a.dim() == 3 ? at::bmm_out(result, a, b) : at::mm_out(result, a, b);
}

void AddProduct(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, double scale) {
  if (UsesOneDnn(a, b)) {
    at::native::mkldnn_matmul(a, b, out, 1, static_cast<float>(scale));
    return;
  }
  a.dim() == 3 ? out.baddbmm_(a, b, 1, scale) : out.addmm_(a, b, 1, scale);
}

}  // namespace lathe
