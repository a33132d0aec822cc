#include "common/base/status.h"
#include "worker/formats/config_json.h"
#include "worker/formats/model_family.h"

// Source: transformers, models/mistral. A Llama with a sliding window; its GGUF files say "llama".

namespace lathe {
namespace {

using nlohmann::json;

ModelConfig Defaults() {
  ModelConfig config;
  config.num_kv_heads = 8;
  config.position_embeddings = 131072;
  config.rms_norm_eps = 1e-6;
  return config;
}

absl::Status Read(const json& root, ModelConfig& config) {
  LATHE_RETURN_IF_ERROR(ReadDecoder(root, config));
  if (!root.contains("sliding_window")) config.sliding_window = 4096;  // transformers' default.
  LATHE_RETURN_IF_ERROR(ReadInt(root, "sliding_window", config.sliding_window));
  if (FindValue(root, "sliding_window") != nullptr && config.sliding_window < 1) {
    return KeyError("sliding_window", config.sliding_window, "null or at least 1");
  }
  LimitToWindow(config);
  return absl::OkStatus();
}

json Write(const ModelConfig& config) {
  json root = DecoderJson(config);
  root["sliding_window"] = config.sliding_window > 0 ? json(config.sliding_window) : json();
  return root;
}

DecoderLayout Layout(const ModelConfig& config) { return LlamaLayout(config, {}); }

}  // namespace

const ModelFamily kMistralFamily = {.architecture = "MistralForCausalLM",
                                    .model_type = "mistral",
                                    .gguf = "",
                                    .gguf_written_as = "llama",
                                    .gguf_permutes_rows = false,
                                    .defaults = Defaults,
                                    .read = Read,
                                    .write = Write,
                                    .layout = Layout};

}  // namespace lathe
