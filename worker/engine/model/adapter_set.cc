#include "worker/engine/model/adapter_set.h"

#include <ATen/ATen.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/engine/ops/counter_random.h"

namespace lathe {

absl::Status AdapterSet::Add(const std::string& name, const LoraOptions& options, uint64_t seed) {
  LATHE_RETURN_IF_ERROR(CheckNewName(name));
  const auto base = [&](int64_t layer, Projection projection) -> const LinearGroup& {
    return layers_[static_cast<size_t>(layer)].groups[static_cast<size_t>(projection)];
  };
  LATHE_ASSIGN_OR_RETURN(Adapter adapter, MakeAdapter(config_, options, seed, like_, base));
  adapters_.emplace(name, std::move(adapter));
  return absl::OkStatus();
}

absl::Status AdapterSet::Load(const std::string& name, const std::filesystem::path& dir) {
  LATHE_RETURN_IF_ERROR(CheckNewName(name));
  LATHE_ASSIGN_OR_RETURN(Adapter adapter, ReadAdapter(config_, dir, like_));
  adapters_.emplace(name, std::move(adapter));
  return absl::OkStatus();
}

const Adapter& AdapterSet::Get(const std::string& name) const {
  const auto found = adapters_.find(name);
  TORCH_CHECK_VALUE(found != adapters_.end(), "adapter '", name, "' is not loaded");
  return found->second;
}

absl::Status AdapterSet::CheckNewName(const std::string& name) const {
  if (name.empty()) return absl::InvalidArgumentError("adapter name is empty");
  if (adapters_.contains(name)) {
    return absl::AlreadyExistsError(absl::StrCat("adapter '", name, "' is loaded already"));
  }
  return absl::OkStatus();
}

at::Tensor Project(const at::Tensor& x, const LinearGroup& group, int64_t layer,
                   Projection projection, const AdapterUse& use) {
  if (use.adapter == nullptr) return LoraLinear(x, group, nullptr);
  const auto index = static_cast<size_t>(projection);
  LoraUpdate update = use.adapter->updates[static_cast<size_t>(layer)][index];
  update.dropout = use.training ? use.adapter->config.dropout : 0;
  update.dropout_seed =
      StreamKey(use.dropout_seed, static_cast<uint64_t>(layer * kNumProjections) + uint64_t{index});
  return LoraLinear(x, group, &update);
}

}  // namespace lathe
