#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "worker/engine/model/language_model_tensors.h"

namespace lathe {

// All trainable tensors as one flat buffer [P], and their gradients as another: the tensors become
// views, so that reducing, clipping and stepping are one operation each, over a fixed layout: the
// order of the adapter file. Thread-compatible.
class FlatParameters {
 public:
  // Moves the data of `tensors` into the buffer. REQUIRES: they are of one type and not empty.
  explicit FlatParameters(std::vector<AdapterTensor> tensors);

  at::Tensor& values() { return values_; }        // [P], the type of the tensors.
  at::Tensor& gradients() { return gradients_; }  // [P]; backward() adds to it.
  void ZeroGradients() { gradients_.zero_(); }
  // Throws c10::Error if a tensor's gradient no longer lives in gradients().
  void CheckViews() const;

  int64_t num_parameters() const { return values_.numel(); }
  const std::vector<AdapterTensor>& tensors() const { return tensors_; }

 private:
  std::vector<AdapterTensor> tensors_;
  at::Tensor values_;
  at::Tensor gradients_;
};

}  // namespace lathe
