#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/engine/model/packed_batch.h"
#include "worker/formats/model_config.h"

// A batch is built from files, so it is checked before it indexes memory. Faults throw
// c10::ValueError, by name.

namespace lathe {

// Every id is in [0, limit). `what` names it: "token id".
void CheckIds(const std::vector<int32_t>& ids, int64_t limit, const char* what);
// Ids, labels and positions are the model's; label positions and documents are the batch's.
void CheckBatch(const PackedBatch& batch, const ModelConfig& config);

// As whole numbers of 64 bits on `device` (ops/staging.h), for index_select and the like.
at::Tensor IndexTensor(const std::vector<int32_t>& values, at::Device device = at::kCPU);

}  // namespace lathe
