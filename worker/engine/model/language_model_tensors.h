#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/engine/model/language_model.h"

// The parts of language_model.h that need the tensor type.

namespace lathe {

// Of an adapter, or a parameter of the model itself.
struct AdapterTensor {
  // As in the file: "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
  // "model.norm.weight".
  std::string name;
  // A [rank, in], B [out, rank] or magnitude [out]; contiguous, F32, or F64 with ModelOptions.fp64.
  at::Tensor tensor;
};

// Views of `joined` by the names and shapes of `specs`: both are the same values in the same order,
// and a tensor of `joined` holds one or several parameters of one width below each other.
std::vector<AdapterTensor> SplitParameters(const std::vector<ParameterSpec>& specs,
                                           const std::vector<at::Tensor>& joined);

}  // namespace lathe
