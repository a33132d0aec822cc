#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "worker/engine/model/causal_lm.h"

// The parts of causal_lm.h that need the tensor type.

namespace lathe {

struct AdapterTensor {
  std::string name;  // "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight".
  at::Tensor
      tensor;  // A [rank, in] or B [out, rank]; contiguous, F32, or F64 with ModelOptions.fp64.
};

}  // namespace lathe
