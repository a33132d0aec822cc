#include "common/base/status.h"
#include "worker/formats/config_json.h"
#include "worker/formats/model_family.h"

// Source: transformers, models/qwen3. A Llama with a norm per head of queries and keys.

namespace lathe {
namespace {

using nlohmann::json;

ModelConfig Defaults() {
  ModelConfig config;
  config.num_kv_heads = 32;
  config.head_dim = 128;
  config.position_embeddings = 32768;
  config.rms_norm_eps = 1e-6;
  return config;
}

absl::Status Read(const json& root, ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(ReadDecoder(root, config));
  LATHE_RETURN_IF_ERROR(ReadBool(root, "attention_bias", config.attention_bias));
  return ReadQwenWindow(root, config);
}

json Write(const ModelConfig& config) {
  json root = DecoderJson(config);
  root["attention_bias"] = config.attention_bias;
  WriteQwenWindow(config, root);
  return root;
}

DecoderLayout Layout(const ModelConfig& config) {
  DecoderLayout layout =
      LlamaLayout(config, {.qkv = config.attention_bias, .output = config.attention_bias});
  layout.query_norm = "self_attn.q_norm";
  layout.key_norm = "self_attn.k_norm";
  return layout;
}

}  // namespace

const ModelFamily kQwen3Family = {.architecture = "Qwen3ForCausalLM",
                                  .model_type = "qwen3",
                                  .gguf = "qwen3",
                                  .gguf_permutes_rows = false,
                                  .defaults = Defaults,
                                  .read = Read,
                                  .write = Write,
                                  .layout = Layout};

}  // namespace lathe
