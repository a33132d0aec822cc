#pragma once

#include <ATen/core/Tensor.h>

#include "worker/formats/model_config.h"

namespace lathe {

// The angle per position of each pair of a head, [R / 2] of `dtype`: theta^(-2 i / R) with R the
// layout's rotary_dim, stretched by config.rope_scaling. Operation by operation as transformers,
// modeling_rope_utils.py, so that the bits in fp32 are the same.
at::Tensor RopeFrequencies(const ModelConfig& config, at::ScalarType dtype);

}  // namespace lathe
