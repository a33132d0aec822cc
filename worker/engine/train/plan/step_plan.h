#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "worker/data/shard.h"
#include "worker/engine/model/packed_batch.h"

namespace lathe {

// What one step, or one pass over held-out rows, does over all ranks. Every rank makes the same
// plan from the shard that all of them have, so the global token count needs no communication.
struct StepPlan {
  std::vector<std::vector<uint32_t>> micro_batches;  // Shard rows of each.
  int64_t trained_tokens = 0;                        // N: labels over all micro-batches.
  int64_t prompt_tokens = 0;                         // The other tokens.
};

// `rows` are indices into `shard`. REQUIRES: rows is not empty.
StepPlan PlanStep(const Shard& shard, std::span<const uint32_t> rows, int64_t micro_batch_tokens);

PackedBatch BuildMicroBatch(const Shard& shard, std::span<const uint32_t> rows);

// Whether micro-batch `index` belongs to `rank`.
inline bool IsOwnMicroBatch(size_t index, int rank, int world_size) {
  return index % static_cast<size_t>(world_size) == static_cast<size_t>(rank);
}

// Numbers in the user's file, for messages: "rows 3, 17, 5 and 20 more".
std::string DescribeRows(const Shard& shard, std::span<const uint32_t> rows);
// Of all micro-batches.
std::string DescribeRows(const Shard& shard, const StepPlan& plan);

}  // namespace lathe
