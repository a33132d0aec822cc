#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "worker/engine/ops/attention.h"
#include "worker/engine/ops/nf4_matrix.h"

// What a GPU does in one pass through its memory where ATen needs several. Formulas: elementwise.h,
// attention.h, token_loss.h, nf4_matrix.h, dropout_mask.h. T tokens; every tensor lies on the GPU.

namespace lathe {

// Implemented by liblathe_nccl.so (worker/engine/gpu). Values are BF16 unless said otherwise,
// computed in F32 and rounded once. Thread-safe; work is queued on the current stream.
class DeviceKernels {
 public:
  virtual ~DeviceKernels() = default;

  // Whether rows of this tensor can be read: BF16, whole packs of 16 bytes.
  virtual bool Fit(const at::Tensor& x) const = 0;

  // The first heads of x [T, any], as many as `weight` [N * E] F32 has of width `head_width` E.
  // inverse [T, N] F32.
  virtual void RmsNorm(const at::Tensor& x, const at::Tensor& weight, int64_t head_width,
                       double eps, const at::Tensor& y, const at::Tensor& inverse) const = 0;
  virtual void RmsNormGradient(const at::Tensor& grad_y, const at::Tensor& x,
                               const at::Tensor& weight, int64_t head_width,
                               const at::Tensor& inverse, const at::Tensor& grad_x) const = 0;
  // x and y [T, any, E], views of rows with values side by side; y may be x.
  virtual void Rotate(const at::Tensor& x, const RopeTable& rope, bool inverse,
                      const at::Tensor& y) const = 0;
  virtual void SwiGlu(const at::Tensor& gate_up, const at::Tensor& y) const = 0;
  virtual void SwiGluGradient(const at::Tensor& grad_y, const at::Tensor& gate_up,
                              const at::Tensor& grad) const = 0;
  // y [T, O] plus bias [O] F32, in place.
  virtual void AddBias(const at::Tensor& y, const at::Tensor& bias) const = 0;
  // logits [T, V] become softmax - one_hot(labels [T] I64); losses [T] F32.
  virtual void CrossEntropy(const at::Tensor& logits, const at::Tensor& labels,
                            const at::Tensor& losses) const = 0;
  // Rows of `out` may lie apart. REQUIRES: whole blocks in a row.
  virtual void DequantizeNf4(const Nf4Matrix& matrix, const at::Tensor& out) const = 0;
  virtual void DropoutMask(const at::Tensor& mask, double dropout, uint64_t stream_key) const = 0;
};

// Of this process, from now on. Null: none. Called before anything is computed on the GPU.
void UseDeviceKernels(const DeviceKernels* kernels);

// Null where x is none of theirs.
const DeviceKernels* DeviceKernelsFor(const at::Tensor& x);

}  // namespace lathe
