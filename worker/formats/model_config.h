#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lathe {

enum class RopeType { kDefault, kLinear, kLlama3 };

// How rotary frequencies are stretched. Source: transformers, modeling_rope_utils.py.
struct RopeScaling {
  RopeType type = RopeType::kDefault;
  double factor = 1;  // Of kLinear and kLlama3. In [1, 10000].
  // Of kLlama3: wavelengths above original / low are divided by the factor, those below original /
  // high are kept, those between are blended.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_positions = 8192;
};

// What an encoder-decoder has beside the rest. Source: transformers, models/t5.
struct EncoderDecoder {
  int64_t num_decoder_layers = 0;  // ModelConfig::num_layers are the encoder's.
  // Distances of two tokens fall into that many buckets, each with a bias per head; those of
  // max_distance and more share one.
  int64_t num_buckets = 32;
  int64_t max_distance = 128;
  bool gated = false;     // Feed-forward: wo(gelu(wi_0 x) * wi_1 x), else wo(relu(wi x)).
  int64_t start_id = -1;  // decoder_start_token_id: the decoder's input before the target.
};

// What config.json says. model_family.h lists the families.
struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM": names the family.
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  // The longest sequence that is computed as the model means it: max_position_embeddings, or the
  // sliding window where that is shorter. Attention here is always full, and inside of one window
  // both are the same. A model without positions (T5) has kMaxPositions.
  int64_t max_positions = 0;
  int64_t position_embeddings = 0;  // max_position_embeddings as the file has it.
  int64_t sliding_window = 0;       // 0: none.
  int64_t max_window_layers = 0;    // Qwen: the first layer that has the window.
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  double rms_norm_eps = 1e-5;
  bool attention_bias = false;  // The key of that name, where the family has it.
  bool tie_word_embeddings = false;
  std::optional<EncoderDecoder> encoder_decoder;  // Unset: a decoder alone.
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

// The most positions that the engine counts.
inline constexpr int64_t kMaxPositions = 1 << 24;

// Unsupported architectures, activations and rope types are refused by name with what is allowed
// (Unimplemented); sizes out of bounds are InvalidArgument.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view config_json);
absl::StatusOr<ModelConfig> LoadModelConfig(const std::filesystem::path& model_dir);
// Keys sorted, indent 2, as transformers reads it (4 and 5: rope_theta at the top).
std::string ModelConfigJson(const ModelConfig& config);
// The bounds that ParseModelConfig checks; for a config that comes from elsewhere.
absl::Status ValidateModelConfig(const ModelConfig& config);

// "llama". REQUIRES: config.architecture is of a family, as in every config made here.
std::string ModelTypeOf(const ModelConfig& config);

// Every parameter of the model in canonical order. A tied lm_head.weight is not among them.
std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& config);

}  // namespace lathe
