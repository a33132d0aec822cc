#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "worker/formats/decoder_layout.h"
#include "worker/formats/model_config.h"

// What several families read from and write to config.json alike, under transformers' names. Only
// for .cc files of this folder. InvalidArgument: the key has another type; Unimplemented: it has a
// value that would give wrong numbers here.

namespace lathe {

// Null if absent or null, which are the same to transformers.
const nlohmann::json* FindValue(const nlohmann::json& root, const char* key);

// "KEY is GOT; must be ALLOWED".
absl::Status KeyError(absl::string_view key, const nlohmann::json& got, absl::string_view allowed);
// Unimplemented "KEY is GOT; supported is SUPPORTED".
absl::Status Unsupported(absl::string_view key, const nlohmann::json& got,
                         absl::string_view supported);

// "KEY is VALUE; must be in [LOW, HIGH]", or ok.
absl::Status CheckRange(absl::string_view key, int64_t value, int64_t low, int64_t high);

// An absent key leaves `value` as it is.
absl::Status ReadInt(const nlohmann::json& root, const char* key, int64_t& value);
absl::Status ReadRequiredInt(const nlohmann::json& root, const char* key, int64_t& value);
absl::Status ReadNumber(const nlohmann::json& root, const char* key, double& value);
absl::Status ReadBool(const nlohmann::json& root, const char* key, bool& value);

// Sizes, norm, activation, rope, tied embeddings. `config` holds the family's defaults.
absl::Status ReadDecoder(const nlohmann::json& root, ModelConfig& config);
// Limits max_positions to config.sliding_window.
void LimitToWindow(ModelConfig& config);
// use_sliding_window, sliding_window, max_window_layers, layer_types of Qwen2 and Qwen3.
absl::Status ReadQwenWindow(const nlohmann::json& root, ModelConfig& config);

// What ReadDecoder reads.
nlohmann::json DecoderJson(const ModelConfig& config);
void WriteQwenWindow(const ModelConfig& config, nlohmann::json& root);

// The names of transformers' Llama and of all who follow it: no q and k norm.
struct AttentionBiases {
  bool qkv = false;
  bool output = false;
};
DecoderLayout LlamaLayout(const ModelConfig& config, const AttentionBiases& biases);

}  // namespace lathe
