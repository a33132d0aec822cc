#include "worker/formats/model_config.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/formats/config_json.h"
#include "worker/formats/decoder_layout.h"
#include "worker/formats/model_family.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;
constexpr int64_t kMaxParameters = int64_t{1} << 40;

absl::Status ReadEosIds(const json& root, std::vector<int64_t>& ids) {
  const json* found = FindValue(root, "eos_token_id");
  if (found == nullptr) return absl::OkStatus();
  const json list = found->is_array() ? *found : json::array({*found});
  for (const json& id : list) {
    if (!id.is_number_integer()) return KeyError("eos_token_id", *found, "ids");
    ids.push_back(id.get<int64_t>());
  }
  return absl::OkStatus();
}

absl::Status CheckModelType(const json& root, const ModelFamily& family) {
  const json* type = FindValue(root, "model_type");
  if (type == nullptr || *type == std::string(family.model_type)) return absl::OkStatus();
  return Unsupported("model_type", *type,
                     absl::StrCat("\"", family.model_type, "\" with ", family.architecture));
}

absl::StatusOr<const ModelFamily*> FamilyOf(const json& root) {
  const json* names = FindValue(root, "architectures");
  if (names == nullptr || !names->is_array() || names->size() != 1 || !(*names)[0].is_string()) {
    return absl::InvalidArgumentError(absl::StrCat("architectures is ",
                                                   names == nullptr ? "missing" : ShortJson(*names),
                                                   "; must be one name in a list"));
  }
  const ModelFamily* family = FindFamily((*names)[0].get_ref<const std::string&>());
  if (family == nullptr) {
    return absl::UnimplementedError(absl::StrCat("the architecture is ", ShortJson((*names)[0]),
                                                 "; supported are ", SupportedArchitectures()));
  }
  LATHE_RETURN_IF_ERROR(CheckModelType(root, *family));
  return family;
}

absl::Status CheckReal(absl::string_view key, double value, double low, double high) {
  if (std::isfinite(value) && value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(key, " is ", value, "; must be in [", low, ", ", high, "]"));
}

absl::Status CheckHeads(const ModelConfig& config) {
  if (config.num_heads % config.num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("num_key_value_heads is ", config.num_kv_heads,
                                                   "; must divide num_attention_heads, which is ",
                                                   config.num_heads));
  }
  const int64_t turned = LayoutOf(config).rotary_dim;
  if (config.encoder_decoder.has_value() && turned == 0) return absl::OkStatus();
  if (turned >= 2 && turned % 2 == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("head_dim is ", config.head_dim, ", of which ", turned,
                   " values turn by position; must be an even number"));
}

absl::Status CheckTokenIds(const ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(CheckRange("bos_token_id", config.bos_token_id, -1, config.vocab_size - 1));
  LATHE_RETURN_IF_ERROR(CheckRange("pad_token_id", config.pad_token_id, -1, config.vocab_size - 1));
  for (const int64_t id : config.eos_token_ids) {
    LATHE_RETURN_IF_ERROR(CheckRange("eos_token_id", id, 0, config.vocab_size - 1));
  }
  return absl::OkStatus();
}

absl::Status CheckRope(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  LATHE_RETURN_IF_ERROR(CheckReal("rope_theta", config.rope_theta, 1, 1e12));
  LATHE_RETURN_IF_ERROR(CheckReal("rope factor", scaling.factor, 1, 1e4));
  if (scaling.type != RopeType::kLlama3) return absl::OkStatus();
  LATHE_RETURN_IF_ERROR(CheckReal("low_freq_factor", scaling.low_freq_factor, 1e-4, 1e4));
  LATHE_RETURN_IF_ERROR(CheckReal("high_freq_factor", scaling.high_freq_factor, 1e-4, 1e4));
  LATHE_RETURN_IF_ERROR(
      CheckRange("original_max_position_embeddings", scaling.original_positions, 1, kMaxPositions));
  if (scaling.high_freq_factor > scaling.low_freq_factor) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("high_freq_factor is ", scaling.high_freq_factor,
                                                 "; must be above low_freq_factor, which is ",
                                                 scaling.low_freq_factor));
}

absl::Status CheckPositions(const ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(
      CheckRange("max_position_embeddings", config.position_embeddings, 1, kMaxPositions));
  LATHE_RETURN_IF_ERROR(CheckRange("sliding_window", config.sliding_window, 0, kMaxPositions));
  LATHE_RETURN_IF_ERROR(CheckRange("max_window_layers", config.max_window_layers, 0, 1 << 20));
  return CheckRange("sequence length", config.max_positions, 1, config.position_embeddings);
}

absl::Status CheckParameterCount(const ModelConfig& config) {
  int64_t total = 0;
  for (const ParameterSpec& spec : ParameterSpecs(config)) {
    int64_t size = 1;
    for (const int64_t dim : spec.shape) size *= dim;  // At most 2^40 by the bounds of the sizes.
    total += size;
  }
  return CheckRange("number of parameters", total, 1, kMaxParameters);
}

absl::StatusOr<ModelConfig> Parse(const json& root) {
  LATHE_ASSIGN_OR_RETURN(const ModelFamily* const family, FamilyOf(root));
  ModelConfig config = family->defaults();
  config.architecture = std::string(family->architecture);
  LATHE_RETURN_IF_ERROR(family->read(root, config));
  // Would run and give wrong numbers.
  const json* quantization = FindValue(root, "quantization_config");
  if (quantization != nullptr) return Unsupported("quantization_config", *quantization, "null");
  LATHE_RETURN_IF_ERROR(ReadInt(root, "bos_token_id", config.bos_token_id));
  LATHE_RETURN_IF_ERROR(ReadInt(root, "pad_token_id", config.pad_token_id));
  LATHE_RETURN_IF_ERROR(ReadEosIds(root, config.eos_token_ids));
  LATHE_RETURN_IF_ERROR(ValidateModelConfig(config));
  return config;
}

}  // namespace

absl::Status ValidateModelConfig(const ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(CheckRange("hidden_size", config.hidden_size, 1, 1 << 17));
  LATHE_RETURN_IF_ERROR(CheckRange("intermediate_size", config.intermediate_size, 1, 1 << 20));
  LATHE_RETURN_IF_ERROR(CheckRange("num_hidden_layers", config.num_layers, 1, 1024));
  LATHE_RETURN_IF_ERROR(CheckRange("num_attention_heads", config.num_heads, 1, 1024));
  LATHE_RETURN_IF_ERROR(
      CheckRange("num_key_value_heads", config.num_kv_heads, 1, config.num_heads));
  LATHE_RETURN_IF_ERROR(CheckRange("head_dim", config.head_dim, 2, 1024));
  LATHE_RETURN_IF_ERROR(CheckHeads(config));
  LATHE_RETURN_IF_ERROR(CheckRange("vocab_size", config.vocab_size, 1, 1 << 22));
  LATHE_RETURN_IF_ERROR(CheckPositions(config));
  LATHE_RETURN_IF_ERROR(CheckRope(config));
  LATHE_RETURN_IF_ERROR(CheckReal("rms_norm_eps", config.rms_norm_eps, 1e-12, 0.1));
  LATHE_RETURN_IF_ERROR(CheckTokenIds(config));
  return CheckParameterCount(config);
}

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view config_json) {
  LATHE_ASSIGN_OR_RETURN(const json root, ParseStrictObject(config_json, "config.json"));
  auto config = Parse(root);
  if (!config.ok()) return Annotate(config.status(), "config.json");
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::filesystem::path& model_dir) {
  LATHE_ASSIGN_OR_RETURN(const std::string text,
                         ReadFile(model_dir / "config.json", kMaxConfigBytes));
  auto config = ParseModelConfig(text);
  if (!config.ok()) return Annotate(config.status(), model_dir.string());
  return config;
}

std::string ModelTypeOf(const ModelConfig& config) {
  return std::string(FindFamily(config.architecture)->model_type);
}

std::string ModelConfigJson(const ModelConfig& config) {
  json root = FindFamily(config.architecture)->write(config);
  root["architectures"] = json::array({config.architecture});
  root["model_type"] = ModelTypeOf(config);
  // Null, not absent: transformers would put its own 1 and 2 there.
  root["bos_token_id"] = config.bos_token_id < 0 ? json() : json(config.bos_token_id);
  root["pad_token_id"] = config.pad_token_id < 0 ? json() : json(config.pad_token_id);
  root["eos_token_id"] = config.eos_token_ids.empty()       ? json()
                         : config.eos_token_ids.size() == 1 ? json(config.eos_token_ids[0])
                                                            : json(config.eos_token_ids);
  return root.dump(2) + "\n";
}

}  // namespace lathe
