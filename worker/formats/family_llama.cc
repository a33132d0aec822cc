#include "common/base/status.h"
#include "worker/formats/config_json.h"
#include "worker/formats/model_family.h"

// Source: transformers, models/llama.

namespace lathe {
namespace {

using nlohmann::json;

ModelConfig Defaults() {
  ModelConfig config;
  config.position_embeddings = 2048;
  config.rms_norm_eps = 1e-6;
  return config;
}

absl::Status Read(const json& root, ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(ReadDecoder(root, config));
  LATHE_RETURN_IF_ERROR(ReadBool(root, "attention_bias", config.attention_bias));
  bool mlp_bias = false;
  LATHE_RETURN_IF_ERROR(ReadBool(root, "mlp_bias", mlp_bias));
  if (mlp_bias) return Unsupported("mlp_bias", true, "false");
  const json* window = FindValue(root, "sliding_window");
  return window == nullptr ? absl::OkStatus() : Unsupported("sliding_window", *window, "null");
}

json Write(const ModelConfig& config) {
  json root = DecoderJson(config);
  root["attention_bias"] = config.attention_bias;
  root["mlp_bias"] = false;
  return root;
}

DecoderLayout Layout(const ModelConfig& config) {
  return LlamaLayout(config, {.qkv = config.attention_bias, .output = config.attention_bias});
}

}  // namespace

const ModelFamily kLlamaFamily = {.architecture = "LlamaForCausalLM",
                                  .model_type = "llama",
                                  .gguf = "llama",
                                  .gguf_permutes_rows = true,
                                  .defaults = Defaults,
                                  .read = Read,
                                  .write = Write,
                                  .layout = Layout};

}  // namespace lathe
