#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include "worker/engine/ops/lora_linear.h"

// What the functions behind LoraLinear share. T tokens, r rank, I input width, O_i output width.

namespace lathe {

// The frozen layers, and where those that have an update lie, without their tensors.
struct LoraPlan : torch::CustomClassHolder {
  struct Slice {
    int64_t layer = 0;       // Index in the group.
    int64_t out_begin = 0;   // Columns of y.
    int64_t out_size = 0;    // O_i.
    int64_t rank_begin = 0;  // Rows of all A below each other.
    int64_t rank = 0;
  };
  std::vector<Slice> slices;
  double scale = 1;
  double dropout = 0;
  uint64_t dropout_seed = 0;
  int64_t rank_sum = 0;
  int64_t width = 0;  // sum O_i, layers without an update as well.
  LinearGroup group;
};
using PlanPtr = c10::intrusive_ptr<LoraPlan>;

// `tensors` gets {A, B, A, B, ...}.
PlanPtr MakePlan(const LinearGroup& group, const LoraUpdate& update,
                 std::vector<at::Tensor>& tensors);

// What a backward pass finds where its forward pass put a plan.
inline PlanPtr PlanIn(const c10::IValue& saved) {
  return c10::static_intrusive_pointer_cast<LoraPlan>(saved.toCapsule());
}

// The mask of the slice's layer, like x.
at::Tensor MaskOf(const LoraPlan& plan, const LoraPlan::Slice& slice, const at::Tensor& x);

inline at::Tensor RowsOf(const LoraPlan::Slice& slice, const at::Tensor& down) {
  return down.narrow(0, slice.rank_begin, slice.rank);
}

inline at::Tensor ColumnsOf(const LoraPlan::Slice& slice, const at::Tensor& y) {
  return y.narrow(1, slice.out_begin, slice.out_size);
}

// Rows and columns of a layer in a matrix [sum r, sum O_i].
inline at::Tensor BlockOf(const LoraPlan::Slice& slice, const at::Tensor& matrix) {
  return RowsOf(slice, matrix).narrow(1, slice.out_begin, slice.out_size);
}

// LoraLinear() for tensors of 16 bits, and on a GPU. There frozen product and update are one sum
// that is rounded once: a y that is rounded before swallows every update smaller than half its last
// place. docs/decisions/0017-one-rounding.md
at::Tensor NarrowLoraLinear(const at::Tensor& x, at::TensorList tensors, const PlanPtr& plan);

}  // namespace lathe
