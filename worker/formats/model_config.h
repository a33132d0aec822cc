#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lathe {

// What config.json of a Llama-family decoder says.
struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM".
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;
  double rope_theta = 10000;
  double rms_norm_eps = 1e-5;
  bool tie_word_embeddings = false;
  // -1 or empty: not given. Passed through; generation_config.json wins over them.
  int64_t bos_token_id = -1;
  int64_t pad_token_id = -1;
  std::vector<int64_t> eos_token_ids;
};

// Name and shape of a parameter, known before any tensor exists.
struct ParameterSpec {
  std::string name;  // As in the Hugging Face file: "model.layers.0.self_attn.q_proj.weight".
  std::vector<int64_t> shape;
};

// Unsupported architectures, activations, biases and rope scalings are refused by name with what is
// allowed (Unimplemented); sizes out of bounds are InvalidArgument.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view config_json);
absl::StatusOr<ModelConfig> LoadModelConfig(const std::filesystem::path& model_dir);
// Keys sorted, indent 2, as transformers reads it (4 and 5: rope_theta at the top).
std::string ModelConfigJson(const ModelConfig& config);
// The bounds that ParseModelConfig checks; for a config that comes from elsewhere.
absl::Status ValidateModelConfig(const ModelConfig& config);

// Every parameter of the model in canonical order. A tied lm_head.weight is not among them.
std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& config);

}  // namespace lathe
