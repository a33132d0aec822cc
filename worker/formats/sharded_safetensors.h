#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/formats/safetensors.h"

// Weights over several files, as transformers names and lists them:
// model-00001-of-00003.safetensors and so on with model.safetensors.index.json, or
// model.safetensors alone.

namespace lathe {

struct WeightShard {
  std::string file;  // Its name.
  std::vector<TensorSpec> tensors;
};

inline constexpr char kShardIndexName[] = "model.safetensors.index.json";

// In the given order; a shard is full when one tensor more would make its data larger than
// `max_bytes` (a larger tensor is alone in its shard). 0: one file.
std::vector<WeightShard> PlanShards(const std::vector<TensorSpec>& tensors, uint64_t max_bytes);

// {"metadata": {"total_size": bytes of data}, "weight_map": {tensor: file}}.
std::string ShardIndexJson(const std::vector<WeightShard>& shards);

}  // namespace lathe
