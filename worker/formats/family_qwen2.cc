#include "common/base/status.h"
#include "worker/formats/config_json.h"
#include "worker/formats/model_family.h"

// Source: transformers, models/qwen2. A Llama with biases on q, k and v.

namespace lathe {
namespace {

using nlohmann::json;

ModelConfig Defaults() {
  ModelConfig config;
  config.num_kv_heads = 32;
  config.position_embeddings = 32768;
  config.rms_norm_eps = 1e-6;
  return config;
}

absl::Status Read(const json& root, ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(ReadDecoder(root, config));
  return ReadQwenWindow(root, config);
}

json Write(const ModelConfig& config) {
  json root = DecoderJson(config);
  WriteQwenWindow(config, root);
  return root;
}

DecoderLayout Layout(const ModelConfig& config) {
  return LlamaLayout(config, {.qkv = true, .output = false});
}

}  // namespace

const ModelFamily kQwen2Family = {.architecture = "Qwen2ForCausalLM",
                                  .model_type = "qwen2",
                                  .gguf = "qwen2",
                                  .gguf_permutes_rows = false,
                                  .defaults = Defaults,
                                  .read = Read,
                                  .write = Write,
                                  .layout = Layout};

}  // namespace lathe
