#pragma once

#include <string>
#include <utility>

#include <ATen/core/Tensor.h>

#include "worker/formats/safetensors.h"

namespace lathe {

// What a file gets of a tensor, which lives as long. REQUIRES: F32 or F64, contiguous, on the CPU.
inline TensorView ViewOf(std::string name, const at::Tensor& tensor) {
  return {.name = std::move(name),
          .dtype = tensor.scalar_type() == at::kDouble ? Dtype::kF64 : Dtype::kF32,
          .shape = tensor.sizes().vec(),
          .bytes = {static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

}  // namespace lathe
