#include "worker/formats/sharded_safetensors.h"

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace lathe {
namespace {

uint64_t BytesOf(const TensorSpec& tensor) {
  uint64_t bytes = DtypeSize(tensor.dtype);
  for (const int64_t size : tensor.shape) bytes *= static_cast<uint64_t>(size);
  return bytes;
}

}  // namespace

std::vector<WeightShard> PlanShards(const std::vector<TensorSpec>& tensors, uint64_t max_bytes) {
  std::vector<WeightShard> shards(1);
  uint64_t used = 0;
  for (const TensorSpec& tensor : tensors) {
    const uint64_t bytes = BytesOf(tensor);
    if (max_bytes > 0 && used > 0 && used + bytes > max_bytes) {
      shards.emplace_back();
      used = 0;
    }
    shards.back().tensors.push_back(tensor);
    used += bytes;
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].file = shards.size() == 1
                         ? "model.safetensors"
                         : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
  }
  return shards;
}

std::string ShardIndexJson(const std::vector<WeightShard>& shards) {
  nlohmann::json map = nlohmann::json::object();
  uint64_t total = 0;
  for (const WeightShard& shard : shards) {
    for (const TensorSpec& tensor : shard.tensors) {
      map[tensor.name] = shard.file;
      total += BytesOf(tensor);
    }
  }
  return nlohmann::json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(2) + "\n";
}

}  // namespace lathe
