#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "worker/engine/model/adapter.h"
#include "worker/engine/model/language_model.h"
#include "worker/engine/model/weights.h"
#include "worker/formats/decoder_layout.h"

namespace lathe {

// The named adapters of one model, whose config and layers outlive it; their tensors have the type
// and the device of `like`. Thread-compatible. Errors
// are those of LanguageModel's methods of the same names.
class AdapterSet {
 public:
  AdapterSet(const ModelConfig& config, const std::vector<LayerWeights>& layers,
             const at::TensorOptions& like)
      : config_(config), layers_(layers), like_(like) {}

  absl::Status Add(const std::string& name, const LoraOptions& options, uint64_t seed);
  absl::Status Load(const std::string& name, const std::filesystem::path& dir);
  void Remove(const std::string& name) { adapters_.erase(name); }
  // Throws c10::ValueError if there is none.
  const Adapter& Get(const std::string& name) const;
  // Null for the empty name: the base alone.
  const Adapter* Find(const std::string& name) const { return name.empty() ? nullptr : &Get(name); }

 private:
  absl::Status CheckNewName(const std::string& name) const;

  const ModelConfig& config_;
  const std::vector<LayerWeights>& layers_;
  const at::TensorOptions like_;
  std::map<std::string, Adapter> adapters_;
};

// How one pass through a model uses an adapter.
struct AdapterUse {
  const Adapter* adapter = nullptr;  // Null: the base alone.
  bool training = false;             // With the adapter's dropout.
  uint64_t dropout_seed = 0;
};

// The linear layers `group` that are `projection` of layer `layer` (LinearsOf()), with the
// adapter's update: x [T, I] -> [T, sum O_i].
at::Tensor Project(const at::Tensor& x, const LinearGroup& group, int64_t layer,
                   Projection projection, const AdapterUse& use);

}  // namespace lathe
