#include "worker/formats/model_config.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;
constexpr int64_t kMaxParameters = int64_t{1} << 40;

// Absent and null are the same to transformers.
const json* FindValue(const json& root, const char* key) {
  const auto found = root.find(key);
  return found == root.end() || found->is_null() ? nullptr : &*found;
}

absl::Status KeyError(absl::string_view key, const json& got, absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(key, " is ", ShortJson(got), "; must be ", allowed));
}

absl::Status ReadInt(const json& root, const char* key, int64_t& value) {
  const json* found = FindValue(root, key);
  if (found == nullptr) return absl::OkStatus();
  if (!found->is_number_integer()) return KeyError(key, *found, "a whole number");
  if (found->is_number_unsigned() && found->get<uint64_t>() > (uint64_t{1} << 62)) {
    return KeyError(key, *found, "a whole number below 2^62");
  }
  value = found->get<int64_t>();
  return absl::OkStatus();
}

absl::Status ReadRequiredInt(const json& root, const char* key, int64_t& value) {
  if (FindValue(root, key) == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(key, " is missing; must be a whole number"));
  }
  return ReadInt(root, key, value);
}

absl::Status ReadNumber(const json& root, const char* key, double& value) {
  const json* found = FindValue(root, key);
  if (found == nullptr) return absl::OkStatus();
  if (!found->is_number()) return KeyError(key, *found, "a number");
  value = found->get<double>();
  return absl::OkStatus();
}

absl::Status ReadBool(const json& root, const char* key, bool& value) {
  const json* found = FindValue(root, key);
  if (found == nullptr) return absl::OkStatus();
  if (!found->is_boolean()) return KeyError(key, *found, "true or false");
  value = found->get<bool>();
  return absl::OkStatus();
}

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

absl::Status CheckArchitecture(const json& root, ModelConfig& config) {
  const json* names = FindValue(root, "architectures");
  if (names == nullptr || !names->is_array() || names->size() != 1 || !(*names)[0].is_string()) {
    return absl::InvalidArgumentError(absl::StrCat("architectures is ",
                                                   names == nullptr ? "missing" : ShortJson(*names),
                                                   "; must be one name in a list"));
  }
  config.architecture = (*names)[0].get<std::string>();
  if (config.architecture != "LlamaForCausalLM") {
    return absl::UnimplementedError(absl::StrCat("the architecture is ", ShortJson((*names)[0]),
                                                 "; supported is LlamaForCausalLM"));
  }
  const json* type = FindValue(root, "model_type");
  if (type == nullptr || *type == "llama") return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("model_type is ", ShortJson(*type), "; supported is \"llama\""));
}

// Refused because a model that has it would run and give wrong numbers.
absl::Status CheckUnsupported(const json& root) {
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    bool value = false;
    LATHE_RETURN_IF_ERROR(ReadBool(root, key, value));
    if (value) return absl::UnimplementedError(absl::StrCat(key, " is true; supported is false"));
  }
  const json* activation = FindValue(root, "hidden_act");
  if (activation != nullptr && *activation != "silu") {
    return absl::UnimplementedError(
        absl::StrCat("hidden_act is ", ShortJson(*activation), "; supported is \"silu\""));
  }
  for (const char* key : {"quantization_config", "sliding_window"}) {
    const json* found = FindValue(root, key);
    if (found == nullptr) continue;
    return absl::UnimplementedError(
        absl::StrCat(key, " is ", ShortJson(*found), "; supported is null"));
  }
  double rotary = 1;
  LATHE_RETURN_IF_ERROR(ReadNumber(root, "partial_rotary_factor", rotary));
  if (rotary == 1) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("partial_rotary_factor is ", rotary, "; supported is 1"));
}

// "rope_scaling" is transformers 4, "rope_parameters" 5; the latter also carries rope_theta.
absl::Status ReadRope(const json& root, ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(ReadNumber(root, "rope_theta", config.rope_theta));
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* rope = FindValue(root, key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) return KeyError(key, *rope, "null or an object");
    const json* type = FindValue(*rope, "rope_type");
    if (type == nullptr) type = FindValue(*rope, "type");
    if (type != nullptr ? *type != "default" : std::string(key) == "rope_scaling") {
      return absl::UnimplementedError(absl::StrCat(key, " is ", ShortJson(*rope),
                                                   "; supported is null or the type \"default\""));
    }
    LATHE_RETURN_IF_ERROR(ReadNumber(*rope, "rope_theta", config.rope_theta));
    double rotary = 1;
    LATHE_RETURN_IF_ERROR(ReadNumber(*rope, "partial_rotary_factor", rotary));
    if (rotary != 1) return KeyError(key, *rope, "without partial_rotary_factor");
  }
  return absl::OkStatus();
}

absl::Status ReadSizes(const json& root, ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "hidden_size", config.hidden_size));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "intermediate_size", config.intermediate_size));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "num_hidden_layers", config.num_layers));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "num_attention_heads", config.num_heads));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "vocab_size", config.vocab_size));
  // transformers' defaults (configuration_llama.py).
  config.num_kv_heads = config.num_heads;
  LATHE_RETURN_IF_ERROR(ReadInt(root, "num_key_value_heads", config.num_kv_heads));
  config.head_dim = config.num_heads > 0 ? config.hidden_size / config.num_heads : 0;
  LATHE_RETURN_IF_ERROR(ReadInt(root, "head_dim", config.head_dim));
  config.max_positions = 2048;
  return ReadInt(root, "max_position_embeddings", config.max_positions);
}

absl::Status CheckRange(absl::string_view key, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(key, " is ", value, "; must be in [", low, ", ", high, "]"));
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
  if (config.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim is ", config.head_dim, "; must be even for rotary positions"));
  }
  return absl::OkStatus();
}

absl::Status CheckTokenIds(const ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(CheckRange("bos_token_id", config.bos_token_id, -1, config.vocab_size - 1));
  LATHE_RETURN_IF_ERROR(CheckRange("pad_token_id", config.pad_token_id, -1, config.vocab_size - 1));
  for (const int64_t id : config.eos_token_ids) {
    LATHE_RETURN_IF_ERROR(CheckRange("eos_token_id", id, 0, config.vocab_size - 1));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> Parse(const json& root) {
  ModelConfig config;
  config.rms_norm_eps = 1e-6;
  LATHE_RETURN_IF_ERROR(CheckArchitecture(root, config));
  LATHE_RETURN_IF_ERROR(CheckUnsupported(root));
  LATHE_RETURN_IF_ERROR(ReadSizes(root, config));
  LATHE_RETURN_IF_ERROR(ReadRope(root, config));
  LATHE_RETURN_IF_ERROR(ReadNumber(root, "rms_norm_eps", config.rms_norm_eps));
  LATHE_RETURN_IF_ERROR(ReadBool(root, "tie_word_embeddings", config.tie_word_embeddings));
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
  LATHE_RETURN_IF_ERROR(CheckRange("max_position_embeddings", config.max_positions, 1, 1 << 24));
  LATHE_RETURN_IF_ERROR(CheckReal("rope_theta", config.rope_theta, 1, 1e12));
  LATHE_RETURN_IF_ERROR(CheckReal("rms_norm_eps", config.rms_norm_eps, 1e-12, 0.1));
  LATHE_RETURN_IF_ERROR(CheckTokenIds(config));
  int64_t total = 0;
  for (const ParameterSpec& spec : ParameterSpecs(config)) {
    int64_t size = 1;
    for (const int64_t dim : spec.shape) size *= dim;  // At most 2^39 by the bounds above.
    total += size;
  }
  return CheckRange("number of parameters", total, 1, kMaxParameters);
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

std::string ModelConfigJson(const ModelConfig& config) {
  json root = {{"architectures", {config.architecture}},
               {"attention_bias", false},
               {"attention_dropout", 0.0},
               {"head_dim", config.head_dim},
               {"hidden_act", "silu"},
               {"hidden_size", config.hidden_size},
               {"initializer_range", 0.02},
               {"intermediate_size", config.intermediate_size},
               {"max_position_embeddings", config.max_positions},
               {"mlp_bias", false},
               {"model_type", "llama"},
               {"num_attention_heads", config.num_heads},
               {"num_hidden_layers", config.num_layers},
               {"num_key_value_heads", config.num_kv_heads},
               {"rms_norm_eps", config.rms_norm_eps},
               {"rope_scaling", nullptr},
               {"rope_theta", config.rope_theta},
               {"tie_word_embeddings", config.tie_word_embeddings},
               {"torch_dtype", "float32"},
               {"use_cache", true},
               {"vocab_size", config.vocab_size}};
  // Null, not absent: transformers would put its own 1 and 2 there.
  root["bos_token_id"] = config.bos_token_id < 0 ? json() : json(config.bos_token_id);
  root["pad_token_id"] = config.pad_token_id < 0 ? json() : json(config.pad_token_id);
  root["eos_token_id"] = config.eos_token_ids.empty()       ? json()
                         : config.eos_token_ids.size() == 1 ? json(config.eos_token_ids[0])
                                                            : json(config.eos_token_ids);
  return root.dump(2) + "\n";
}

std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& config) {
  const int64_t q = config.num_heads * config.head_dim;
  const int64_t kv = config.num_kv_heads * config.head_dim;
  const int64_t hidden = config.hidden_size;
  const int64_t middle = config.intermediate_size;
  std::vector<ParameterSpec> specs = {{"model.embed_tokens.weight", {config.vocab_size, hidden}}};
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    specs.push_back({prefix + "input_layernorm.weight", {hidden}});
    specs.push_back({prefix + "self_attn.q_proj.weight", {q, hidden}});
    specs.push_back({prefix + "self_attn.k_proj.weight", {kv, hidden}});
    specs.push_back({prefix + "self_attn.v_proj.weight", {kv, hidden}});
    specs.push_back({prefix + "self_attn.o_proj.weight", {hidden, q}});
    specs.push_back({prefix + "post_attention_layernorm.weight", {hidden}});
    specs.push_back({prefix + "mlp.gate_proj.weight", {middle, hidden}});
    specs.push_back({prefix + "mlp.up_proj.weight", {middle, hidden}});
    specs.push_back({prefix + "mlp.down_proj.weight", {hidden, middle}});
  }
  specs.push_back({"model.norm.weight", {hidden}});
  if (!config.tie_word_embeddings) specs.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  return specs;
}

}  // namespace lathe
