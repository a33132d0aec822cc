#include <utility>

#include "common/base/status.h"
#include "worker/formats/config_json.h"
#include "worker/formats/model_family.h"

// ChatGLM3 under its original names. Source: THUDM/chatglm3-6b, config.json and
// modeling_chatglm.py; transformers' models/glm computes the same.

namespace lathe {
namespace {

using nlohmann::json;

ModelConfig Defaults() {
  ModelConfig config;
  config.position_embeddings = 2048;
  config.rms_norm_eps = 1e-5;
  return config;
}

// Each changes the mathematics; ChatGLM3 has them so.
constexpr std::pair<const char*, bool> kFixed[] = {
    {"add_bias_linear", false},      {"apply_residual_connection_post_layernorm", false},
    {"multi_query_attention", true}, {"original_rope", true},
    {"post_layer_norm", true},       {"rmsnorm", true},
};

absl::Status CheckFixed(const json& root) {
  for (const auto& [key, expected] : kFixed) {
    bool value = expected;
    LATHE_RETURN_IF_ERROR(ReadBool(root, key, value));
    if (value != expected) return Unsupported(key, value, expected ? "true" : "false");
  }
  // ChatGLM2 and 3 mean different things by the ratio, and their files do not tell them apart.
  double ratio = 1;
  LATHE_RETURN_IF_ERROR(ReadNumber(root, "rope_ratio", ratio));
  if (ratio != 1) return Unsupported("rope_ratio", ratio, "1");
  const json* prefix = FindValue(root, "pre_seq_len");
  if (prefix != nullptr) return Unsupported("pre_seq_len", *prefix, "null");
  int64_t bits = 0;
  LATHE_RETURN_IF_ERROR(ReadInt(root, "quantization_bit", bits));
  return bits == 0 ? absl::OkStatus() : Unsupported("quantization_bit", bits, "0");
}

absl::Status Read(const json& root, ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(CheckFixed(root));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "hidden_size", config.hidden_size));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "ffn_hidden_size", config.intermediate_size));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "num_layers", config.num_layers));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "num_attention_heads", config.num_heads));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "multi_query_group_num", config.num_kv_heads));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "kv_channels", config.head_dim));
  LATHE_RETURN_IF_ERROR(ReadRequiredInt(root, "padded_vocab_size", config.vocab_size));
  LATHE_RETURN_IF_ERROR(ReadInt(root, "seq_length", config.position_embeddings));
  config.max_positions = config.position_embeddings;
  LATHE_RETURN_IF_ERROR(ReadNumber(root, "layernorm_epsilon", config.rms_norm_eps));
  LATHE_RETURN_IF_ERROR(ReadBool(root, "add_qkv_bias", config.attention_bias));
  return ReadBool(root, "tie_word_embeddings", config.tie_word_embeddings);
}

json Write(const ModelConfig& config) {
  json root = {{"add_qkv_bias", config.attention_bias},
               {"apply_query_key_layer_scaling", true},
               {"attention_dropout", 0.0},
               {"attention_softmax_in_fp32", true},
               {"bias_dropout_fusion", true},
               {"ffn_hidden_size", config.intermediate_size},
               {"fp32_residual_connection", false},
               {"hidden_dropout", 0.0},
               {"hidden_size", config.hidden_size},
               {"kv_channels", config.head_dim},
               {"layernorm_epsilon", config.rms_norm_eps},
               {"multi_query_group_num", config.num_kv_heads},
               {"num_attention_heads", config.num_heads},
               {"num_layers", config.num_layers},
               {"padded_vocab_size", config.vocab_size},
               {"seq_length", config.position_embeddings},
               {"tie_word_embeddings", config.tie_word_embeddings},
               {"torch_dtype", "float32"},
               {"use_cache", true}};
  for (const auto& [key, value] : kFixed) root[key] = value;
  return root;
}

DecoderLayout Layout(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t middle = config.intermediate_size;
  const int64_t q = config.num_heads * config.head_dim;
  const int64_t both = q + 2 * config.num_kv_heads * config.head_dim;
  return {.embedding = "transformer.embedding.word_embeddings",
          .layers = "transformer.encoder.layers",
          .final_norm = "transformer.encoder.final_layernorm",
          .head = "transformer.output_layer",
          .input_norm = "input_layernorm",
          .post_attention_norm = "post_attention_layernorm",
          .query_norm = "",
          .key_norm = "",
          .linears = {{"self_attention.query_key_value", Projection::kQkv, hidden, both,
                       config.attention_bias},
                      {"self_attention.dense", Projection::kOutput, q, hidden, false},
                      {"mlp.dense_h_to_4h", Projection::kGateUp, hidden, 2 * middle, false},
                      {"mlp.dense_4h_to_h", Projection::kDown, middle, hidden, false}},
          .rotary_dim = config.head_dim / 2,
          .interleaved_pairs = true};
}

}  // namespace

const ModelFamily kChatGlmFamily = {.architecture = "ChatGLMModel",
                                    .model_type = "chatglm",
                                    .gguf = "",
                                    .gguf_permutes_rows = false,
                                    .defaults = Defaults,
                                    .read = Read,
                                    .write = Write,
                                    .layout = Layout};

}  // namespace lathe
