#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "worker/engine/model/causal_lm.h"

// The parts of causal_lm.h that need the tensor type.

namespace lathe {

struct AdapterTensor {
  std::string name;  // "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight".
  // A [rank, in], B [out, rank] or magnitude [out]; contiguous, F32, or F64 with ModelOptions.fp64.
  at::Tensor tensor;
};

}  // namespace lathe
