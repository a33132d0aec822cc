#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/engine/model/adapter_set.h"
#include "worker/engine/model/language_model.h"
#include "worker/engine/model/weights.h"

namespace lathe {

// What the models of all families have alike: config, weights and named adapters over them.
class AdaptedModel : public LanguageModel {
 public:
  const ModelConfig& config() const final { return config_; }

  absl::Status AddAdapter(const std::string& name, const LoraOptions& options,
                          uint64_t seed) final {
    return adapters_.Add(name, options, seed);
  }
  absl::Status LoadAdapter(const std::string& name, const std::filesystem::path& dir) final {
    return adapters_.Load(name, dir);
  }
  void RemoveAdapter(const std::string& name) final { adapters_.Remove(name); }
  std::vector<AdapterTensor> AdapterTensors(const std::string& name) final {
    return adapters_.Get(name).tensors;
  }
  AdapterConfig GetAdapterConfig(const std::string& name) const final {
    return adapters_.Get(name).config;
  }
  std::vector<AdapterTensor> ParameterTensors() final {
    return ParameterTensorsOf(weights_, config_);
  }

 protected:
  // `like`: type and device of the adapters' tensors.
  AdaptedModel(ModelConfig config, ModelWeights weights, const at::TensorOptions& like)
      : config_(std::move(config)),
        weights_(std::move(weights)),
        adapters_(config_, weights_.layers, like) {}

  const ModelWeights& weights() const { return weights_; }
  const Adapter* FindAdapter(const std::string& name) const { return adapters_.Find(name); }

 private:
  const ModelConfig config_;
  const ModelWeights weights_;
  AdapterSet adapters_;
};

}  // namespace lathe
