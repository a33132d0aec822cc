#include "worker/formats/config_json.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

using nlohmann::json;

absl::Status ReadSizes(const json& root, ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "hidden_size", config.hidden_size));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "intermediate_size", config.intermediate_size));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "num_hidden_layers", config.num_layers));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "num_attention_heads", config.num_heads));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "vocab_size", config.vocab_size));
  const bool null_kv =
      root.contains("num_key_value_heads") && root["num_key_value_heads"].is_null();
  if (null_kv || config.num_kv_heads == 0) config.num_kv_heads = config.num_heads;
  LATHE_RETURN_IF_ERROR(ReadInt(root, "num_key_value_heads", config.num_kv_heads));
  const bool null_dim = root.contains("head_dim") && root["head_dim"].is_null();
  if (null_dim || config.head_dim == 0) {
    config.head_dim = config.num_heads > 0 ? config.hidden_size / config.num_heads : 0;
  }
  LATHE_RETURN_IF_ERROR(ReadInt(root, "head_dim", config.head_dim));
  LATHE_RETURN_IF_ERROR(ReadInt(root, "max_position_embeddings", config.position_embeddings));
  config.max_positions = config.position_embeddings;
  return absl::OkStatus();
}

absl::Status CheckRotaryShare(const json& object, absl::string_view key) {
  double share = 1;
  LATHE_RETURN_IF_ERROR(ReadNumber(object, "partial_rotary_factor", share));
  return share == 1 ? absl::OkStatus() : Unsupported(key, share, "1");
}

absl::Status ReadRequiredNumber(const json& rope, const char* key, double& value) {
  if (FindValue(rope, key) != nullptr) return ReadNumber(rope, key, value);
  return absl::InvalidArgumentError(
      absl::StrCat(key, " is missing in ", ShortJson(rope), "; must be a number"));
}

// transformers: a key at the top wins; without either it is max_position_embeddings.
absl::Status ReadOriginalPositions(const json& root, const json& rope, ModelConfig& config) {
  constexpr const char* kKey = "original_max_position_embeddings";
  config.rope_scaling.original_positions = config.position_embeddings;
  LATHE_RETURN_IF_ERROR(ReadInt(rope, kKey, config.rope_scaling.original_positions));
  return ReadInt(root, kKey, config.rope_scaling.original_positions);
}

absl::Status ReadScaling(const json& root, const char* key, const json& rope, ModelConfig& config) {
  RopeScaling& scaling = config.rope_scaling;
  const json* type = FindValue(rope, "rope_type");
  if (type == nullptr) type = FindValue(rope, "type");
  const bool plain = type == nullptr && std::string(key) == "rope_parameters";
  if (plain || (type != nullptr && *type == "default")) return absl::OkStatus();
  if (type != nullptr && *type == "linear") {
    scaling.type = RopeType::kLinear;
    return ReadRequiredNumber(rope, "factor", scaling.factor);
  }
  if (type != nullptr && *type == "llama3") {
    scaling.type = RopeType::kLlama3;
    LATHE_RETURN_IF_ERROR(ReadRequiredNumber(rope, "factor", scaling.factor));
    LATHE_RETURN_IF_ERROR(ReadRequiredNumber(rope, "low_freq_factor", scaling.low_freq_factor));
    LATHE_RETURN_IF_ERROR(ReadRequiredNumber(rope, "high_freq_factor", scaling.high_freq_factor));
    return ReadOriginalPositions(root, rope, config);
  }
  return absl::UnimplementedError(
      absl::StrCat(key, " is ", ShortJson(rope),
                   "; supported is null or a rope_type of \"default\", \"linear\", \"llama3\""));
}

// "rope_scaling" is transformers 4, "rope_parameters" 5, which also carries rope_theta. Of both,
// the former counts.
absl::Status ReadRope(const json& root, ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(ReadNumber(root, "rope_theta", config.rope_theta));
  LATHE_RETURN_IF_ERROR(CheckRotaryShare(root, "partial_rotary_factor"));
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* rope = FindValue(root, key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) return KeyError(key, *rope, "null or an object");
    if (rope->empty()) continue;
    LATHE_RETURN_IF_ERROR(CheckRotaryShare(*rope, absl::StrCat(key, ".partial_rotary_factor")));
    LATHE_RETURN_IF_ERROR(ReadNumber(*rope, "rope_theta", config.rope_theta));
    return ReadScaling(root, key, *rope, config);
  }
  return absl::OkStatus();
}

json RopeJson(const RopeScaling& scaling) {
  switch (scaling.type) {
    case RopeType::kDefault:
      break;
    case RopeType::kLinear:
      return {{"factor", scaling.factor}, {"rope_type", "linear"}};
    case RopeType::kLlama3:
      return {{"factor", scaling.factor},
              {"high_freq_factor", scaling.high_freq_factor},
              {"low_freq_factor", scaling.low_freq_factor},
              {"original_max_position_embeddings", scaling.original_positions},
              {"rope_type", "llama3"}};
  }
  return nullptr;
}

// The layers that have the window must be those that follow from max_window_layers: it is what is
// written again.
absl::Status CheckLayerTypes(const json& root, const ModelConfig& config) {
  const json* types = FindValue(root, "layer_types");
  if (types == nullptr) return absl::OkStatus();
  json expected = json::array();
  for (int64_t i = 0; i < std::min<int64_t>(config.num_layers, 1024); ++i) {
    const bool window = config.sliding_window > 0 && i >= config.max_window_layers;
    expected.push_back(window ? "sliding_attention" : "full_attention");
  }
  if (*types == expected) return absl::OkStatus();
  return Unsupported("layer_types", *types,
                     "full_attention up to max_window_layers, sliding_attention from there");
}

}  // namespace

const json* FindValue(const json& root, const char* key) {
  const auto found = root.find(key);
  return found == root.end() || found->is_null() ? nullptr : &*found;
}

absl::Status KeyError(absl::string_view key, const json& got, absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(key, " is ", ShortJson(got), "; must be ", allowed));
}

absl::Status Unsupported(absl::string_view key, const json& got, absl::string_view supported) {
  return absl::UnimplementedError(
      absl::StrCat(key, " is ", ShortJson(got), "; supported is ", supported));
}

absl::Status CheckRange(absl::string_view key, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(key, " is ", value, "; must be in [", low, ", ", high, "]"));
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

absl::Status ReadDecoder(const json& root, ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(ReadSizes(root, config));
  LATHE_RETURN_IF_ERROR(ReadRope(root, config));
  LATHE_RETURN_IF_ERROR(ReadNumber(root, "rms_norm_eps", config.rms_norm_eps));
  LATHE_RETURN_IF_ERROR(ReadBool(root, "tie_word_embeddings", config.tie_word_embeddings));
  const json* activation = FindValue(root, "hidden_act");
  if (activation == nullptr || *activation == "silu") return absl::OkStatus();
  return Unsupported("hidden_act", *activation, "\"silu\"");
}

void LimitToWindow(ModelConfig& config) {
  if (config.sliding_window <= 0) return;
  config.max_positions = std::min(config.max_positions, config.sliding_window);
}

absl::Status ReadQwenWindow(const json& root, ModelConfig& config) {
  bool used = false;
  int64_t window = root.contains("sliding_window") ? 0 : 4096;  // transformers' default.
  config.max_window_layers = 28;
  LATHE_RETURN_IF_ERROR(ReadBool(root, "use_sliding_window", used));
  LATHE_RETURN_IF_ERROR(ReadInt(root, "sliding_window", window));
  LATHE_RETURN_IF_ERROR(ReadInt(root, "max_window_layers", config.max_window_layers));
  if (used && FindValue(root, "sliding_window") != nullptr && window < 1) {
    return KeyError("sliding_window", window, "null or at least 1");
  }
  if (used && config.max_window_layers < config.num_layers) config.sliding_window = window;
  LimitToWindow(config);
  return CheckLayerTypes(root, config);
}

json DecoderJson(const ModelConfig& config) {
  return {{"attention_dropout", 0.0},
          {"head_dim", config.head_dim},
          {"hidden_act", "silu"},
          {"hidden_size", config.hidden_size},
          {"initializer_range", 0.02},
          {"intermediate_size", config.intermediate_size},
          {"max_position_embeddings", config.position_embeddings},
          {"num_attention_heads", config.num_heads},
          {"num_hidden_layers", config.num_layers},
          {"num_key_value_heads", config.num_kv_heads},
          {"rms_norm_eps", config.rms_norm_eps},
          {"rope_scaling", RopeJson(config.rope_scaling)},
          {"rope_theta", config.rope_theta},
          {"tie_word_embeddings", config.tie_word_embeddings},
          {"torch_dtype", "float32"},
          {"use_cache", true},
          {"vocab_size", config.vocab_size}};
}

void WriteQwenWindow(const ModelConfig& config, json& root) {
  const bool used = config.sliding_window > 0;
  root["use_sliding_window"] = used;
  root["sliding_window"] = used ? json(config.sliding_window) : json();
  root["max_window_layers"] = used ? config.max_window_layers : config.num_layers;
}

DecoderLayout LlamaLayout(const ModelConfig& config, const AttentionBiases& biases) {
  const int64_t hidden = config.hidden_size;
  const int64_t middle = config.intermediate_size;
  const int64_t q = config.num_heads * config.head_dim;
  const int64_t kv = config.num_kv_heads * config.head_dim;
  return {.embedding = "model.embed_tokens",
          .layers = "model.layers",
          .final_norm = "model.norm",
          .head = "lm_head",
          .input_norm = "input_layernorm",
          .post_attention_norm = "post_attention_layernorm",
          .query_norm = "",
          .key_norm = "",
          .linears = {{"self_attn.q_proj", Projection::kQkv, hidden, q, biases.qkv},
                      {"self_attn.k_proj", Projection::kQkv, hidden, kv, biases.qkv},
                      {"self_attn.v_proj", Projection::kQkv, hidden, kv, biases.qkv},
                      {"self_attn.o_proj", Projection::kOutput, q, hidden, biases.output},
                      {"mlp.gate_proj", Projection::kGateUp, hidden, middle, false},
                      {"mlp.up_proj", Projection::kGateUp, hidden, middle, false},
                      {"mlp.down_proj", Projection::kDown, middle, hidden, false}},
          .rotary_dim = config.head_dim,
          .interleaved_pairs = false,
          .padding_row = config.pad_token_id};
}

}  // namespace lathe
