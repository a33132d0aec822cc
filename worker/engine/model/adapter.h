#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "worker/engine/model/language_model.h"
#include "worker/engine/model/language_model_tensors.h"
#include "worker/engine/model/weights.h"
#include "worker/engine/ops/lora_linear.h"

namespace lathe {

// One set of LoRA updates over the linear layers of a model.
struct Adapter {
  AdapterConfig config;  // base_model is as loaded; empty for a new adapter.
  std::vector<AdapterTensor>
      tensors;  // Layer by layer, in the order of the computation: A, B, magnitude.
  // updates[layer][projection], layers as in LinearsOf(); the tensors are those above. dropout and
  // seed are set per call.
  std::vector<std::vector<LoraUpdate>> updates;
};

// The frozen layers of one projection of one layer.
using FrozenLayers = std::function<const LinearGroup&(int64_t layer, Projection projection)>;

// LanguageModel::AddAdapter. Tensors have the type and the device of `like`. DoRA's magnitudes
// start as the row norms of `base`. InvalidArgument: an option out of range, or an unknown module.
absl::StatusOr<Adapter> MakeAdapter(const ModelConfig& config, const LoraOptions& options,
                                    uint64_t seed, const at::TensorOptions& like,
                                    const FrozenLayers& base);

// LanguageModel::LoadAdapter. InvalidArgument: a tensor is missing, extra or has another shape, or
// the configuration asks for what Lathe does not have.
absl::StatusOr<Adapter> ReadAdapter(const ModelConfig& config, const std::filesystem::path& dir,
                                    const at::TensorOptions& like);

}  // namespace lathe
