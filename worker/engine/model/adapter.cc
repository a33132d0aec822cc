#include "worker/engine/model/adapter.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/engine/ops/counter_random.h"
#include "worker/engine/ops/dora_linear.h"
#include "worker/formats/decoder_layout.h"
#include "worker/formats/peft.h"
#include "worker/formats/safetensors.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxRank = 256;
constexpr double kMaxAlpha = 4096;
constexpr size_t kMaxConfigBytes = size_t{1} << 20;

// "q_proj" of "self_attn.q_proj".
std::string LastName(const LinearSpec& module) {
  return module.name.substr(module.name.rfind('.') + 1);
}

// Each once, in the order of the computation.
std::vector<std::string> LastNames(const std::vector<LayerLinears>& layers) {
  std::vector<std::string> names;
  for (const LayerLinears& layer : layers) {
    for (const LinearSpec& module : layer.linears) {
      const std::string name = LastName(module);
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  return names;
}

bool NamesAnyModule(const std::vector<LayerLinears>& layers, const std::string& target) {
  for (const LayerLinears& layer : layers) {
    for (const LinearSpec& module : layer.linears) {
      if (IsTarget(layer.prefix + module.name, {target})) return true;
    }
  }
  return false;
}

// Sorted names; "all-linear" stands for every linear layer but the head.
absl::StatusOr<std::vector<std::string>> ResolveModules(const ModelConfig& config,
                                                        const std::vector<std::string>& asked) {
  const std::vector<LayerLinears> layers = LinearsOf(config);
  const std::vector<std::string> known = LastNames(layers);
  std::set<std::string> names;
  for (const std::string& name : asked) {
    if (name == "all-linear") {
      names.insert(known.begin(), known.end());
    } else if (NamesAnyModule(layers, name)) {
      names.insert(name);
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("lora.target_modules has '", name, "'; allowed are all-linear, ",
                       absl::StrJoin(known, ", "), ", alone or with their path, such as ",
                       layers.back().prefix, layers.back().linears.back().name));
    }
  }
  if (names.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "lora.target_modules is empty; allowed are all-linear, ", absl::StrJoin(known, ", ")));
  }
  return std::vector<std::string>(names.begin(), names.end());
}

absl::Status CheckRange(const AdapterConfig& config) {
  if (config.rank < 1 || config.rank > kMaxRank) {
    return absl::InvalidArgumentError(
        absl::StrCat("lora.rank is ", config.rank, "; must be in [1, ", kMaxRank, "]"));
  }
  if (!(config.alpha > 0 && config.alpha <= kMaxAlpha)) {
    return absl::InvalidArgumentError(
        absl::StrCat("lora.alpha is ", config.alpha, "; must be in (0, ", kMaxAlpha, "]"));
  }
  if (!(config.dropout >= 0 && config.dropout < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("lora.dropout is ", config.dropout, "; must be in [0, 1)"));
  }
  return absl::OkStatus();
}

// PEFT's name for what the model does.
const char* TaskTypeOf(const ModelConfig& config) {
  return config.encoder_decoder ? "SEQ_2_SEQ_LM" : "CAUSAL_LM";
}

using TensorSource = std::function<absl::StatusOr<at::Tensor>(const std::string& name,
                                                              const std::vector<int64_t>& shape)>;

// Fills the adapter's tensors from `source`, which is asked for each in the order of the file.
absl::StatusOr<Adapter> Assemble(const ModelConfig& model, AdapterConfig config,
                                 const TensorSource& source) {
  Adapter adapter;
  for (const LayerLinears& layer : LinearsOf(model)) {
    std::vector<LoraUpdate> updates(kNumProjections);
    for (const LinearSpec& module : layer.linears) {
      LoraUpdate& update = updates[static_cast<size_t>(module.projection)];
      update.scale = config.Scale();
      LoraPair& pair = update.pairs.emplace_back();
      const std::string key = layer.prefix + module.name;
      if (!IsTarget(key, config.target_modules)) continue;
      const std::string prefix = absl::StrCat("base_model.model.", key, ".lora_");
      LATHE_ASSIGN_OR_RETURN(pair.a,
                             source(prefix + "A.weight", {config.rank, module.in_features}));
      LATHE_ASSIGN_OR_RETURN(pair.b,
                             source(prefix + "B.weight", {module.out_features, config.rank}));
      adapter.tensors.push_back({prefix + "A.weight", pair.a});
      adapter.tensors.push_back({prefix + "B.weight", pair.b});
      if (!config.dora) continue;
      LATHE_ASSIGN_OR_RETURN(pair.magnitude,
                             source(prefix + "magnitude_vector", {module.out_features}));
      adapter.tensors.push_back({prefix + "magnitude_vector", pair.magnitude});
    }
    adapter.updates.push_back(std::move(updates));
  }
  for (AdapterTensor& entry : adapter.tensors) entry.tensor.set_requires_grad(true);
  adapter.config = std::move(config);
  return adapter;
}

// U(-1/sqrt(in), 1/sqrt(in)): peft's kaiming_uniform_(a = sqrt(5)). Drawn in 64 bits and rounded,
// so that both precisions start from the same numbers.
at::Tensor RandomA(const std::vector<int64_t>& shape, uint64_t stream_key) {
  at::Tensor a = at::empty(shape, at::kDouble);
  const double bound = 1 / std::sqrt(static_cast<double>(shape[1]));
  double* data = a.data_ptr<double>();
  for (int64_t i = 0; i < a.numel(); ++i) {
    data[i] = bound * (2 * UniformAt(stream_key, static_cast<uint64_t>(i)) - 1);
  }
  return a;
}

// B is zero, so that W' is W.
void StartMagnitudes(Adapter& adapter, const FrozenLayers& base) {
  for (size_t layer = 0; layer < adapter.updates.size(); ++layer) {
    for (int projection = 0; projection < kNumProjections; ++projection) {
      const LoraUpdate& update = adapter.updates[layer][static_cast<size_t>(projection)];
      const LinearGroup& group =
          base(static_cast<int64_t>(layer), static_cast<Projection>(projection));
      for (size_t i = 0; i < update.pairs.size(); ++i) {
        const LoraPair& pair = update.pairs[i];
        if (!pair.magnitude.defined()) continue;
        const at::Tensor weight = group.Rows(i, pair.a.scalar_type());
        pair.magnitude.detach().copy_(RowNorms(weight, pair, update.scale));
      }
    }
  }
}

absl::StatusOr<at::ScalarType> ScalarTypeOf(const TensorView& view) {
  switch (view.dtype) {
    case Dtype::kF64:
      return at::kDouble;
    case Dtype::kF32:
      return at::kFloat;
    case Dtype::kF16:
      return at::kHalf;
    case Dtype::kBf16:
      return at::kBFloat16;
    default:
      return absl::InvalidArgumentError(absl::StrCat("tensor '", view.name, "' is ",
                                                     DtypeName(view.dtype),
                                                     "; allowed are F64, F32, F16, BF16"));
  }
}

absl::StatusOr<at::Tensor> ReadTensor(const SafetensorsFile& file, const std::string& name,
                                      const std::vector<int64_t>& shape,
                                      const at::TensorOptions& like) {
  const TensorView* view = file.Find(name);
  if (view == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", name, "' is missing; adapter_config.json asks for it with shape [",
                     absl::StrJoin(shape, ", "), "]"));
  }
  if (view->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor '", name, "' has shape [", absl::StrJoin(view->shape, ", "),
        "]; this model and adapter_config.json ask for [", absl::StrJoin(shape, ", "), "]"));
  }
  LATHE_ASSIGN_OR_RETURN(const at::ScalarType stored, ScalarTypeOf(*view));
  // Copied byte by byte: a file of another program need not be aligned.
  at::Tensor tensor = at::empty(shape, stored);
  std::copy(view->bytes.begin(), view->bytes.end(), static_cast<char*>(tensor.data_ptr()));
  return tensor.to(like);
}

}  // namespace

absl::StatusOr<Adapter> MakeAdapter(const ModelConfig& config, const LoraOptions& options,
                                    uint64_t seed, const at::TensorOptions& like,
                                    const FrozenLayers& base) {
  AdapterConfig adapter;
  adapter.task_type = TaskTypeOf(config);
  adapter.rank = options.rank;
  adapter.alpha = options.alpha;
  adapter.dropout = options.dropout;
  adapter.rslora = options.rslora;
  adapter.dora = options.dora;
  LATHE_RETURN_IF_ERROR(CheckRange(adapter));
  LATHE_ASSIGN_OR_RETURN(adapter.target_modules, ResolveModules(config, options.target_modules));
  uint64_t index = 0;
  const auto source = [&](const std::string& name,
                          const std::vector<int64_t>& shape) -> absl::StatusOr<at::Tensor> {
    if (shape.size() == 1) return at::empty(shape, like);
    const uint64_t key = StreamKey(seed, index++);
    const bool is_a = name.find("lora_A") != std::string::npos;
    return is_a ? RandomA(shape, key).to(like) : at::zeros(shape, like);
  };
  LATHE_ASSIGN_OR_RETURN(Adapter made, Assemble(config, std::move(adapter), source));
  if (made.config.dora) StartMagnitudes(made, base);
  return made;
}

absl::StatusOr<Adapter> ReadAdapter(const ModelConfig& config, const fs::path& dir,
                                    const at::TensorOptions& like) {
  LATHE_ASSIGN_OR_RETURN(const std::string json,
                         ReadFile(dir / "adapter_config.json", kMaxConfigBytes));
  LATHE_ASSIGN_OR_RETURN(AdapterConfig adapter, ParseAdapterConfig(json));
  LATHE_RETURN_IF_ERROR(Annotate(CheckRange(adapter), "adapter_config.json"));
  if (!adapter.task_type.empty() && adapter.task_type != TaskTypeOf(config)) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapter_config.json: task_type is ", adapter.task_type, "; one for a ",
                     config.architecture, " has ", TaskTypeOf(config)));
  }
  adapter.task_type = TaskTypeOf(config);
  auto modules = ResolveModules(config, adapter.target_modules);
  if (!modules.ok()) return Annotate(modules.status(), "adapter_config.json");
  adapter.target_modules = *std::move(modules);
  LATHE_ASSIGN_OR_RETURN(const SafetensorsFile file,
                         SafetensorsFile::Open(dir / "adapter_model.safetensors"));
  auto assembled = Assemble(config, std::move(adapter),
                            [&](const std::string& name, const std::vector<int64_t>& shape) {
                              return ReadTensor(file, name, shape, like);
                            });
  if (!assembled.ok()) return Annotate(assembled.status(), "adapter_model.safetensors");
  std::set<absl::string_view> known;
  for (const AdapterTensor& tensor : assembled->tensors) known.insert(tensor.name);
  for (const TensorView& view : file.tensors()) {
    if (known.contains(view.name)) continue;
    return absl::InvalidArgumentError(absl::StrCat("adapter_model.safetensors: tensor '", view.name,
                                                   "' is none of the ", known.size(),
                                                   " that adapter_config.json asks for"));
  }
  return assembled;
}

}  // namespace lathe
