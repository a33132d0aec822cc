#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/safetensors.h"

// The PEFT adapter folder: adapter_config.json and adapter_model.safetensors.
// semantics.md section 4.

namespace lathe {

struct AdapterConfig {
  std::string base_model;
  int64_t rank = 8;
  double alpha = 16;
  double dropout = 0;
  bool rslora = false;
  bool dora = false;
  std::vector<std::string> target_modules;  // Sorted in the file.
  // Of an encoder-decoder "SEQ_2_SEQ_LM". Empty: the file does not say.
  std::string task_type = "CAUSAL_LM";

  // What B A is multiplied with: alpha / rank; with rslora alpha / sqrt(rank).
  double Scale() const;
};

// Whether the module with the path `key` ("model.layers.0.self_attn.q_proj") is one of `targets`:
// its whole path or the end of it after a dot, as PEFT compares (tuners_utils.py,
// check_target_module_exists).
bool IsTarget(absl::string_view key, const std::vector<std::string>& targets);

// Keys, sorted, indent 2: base_model_name_or_path bias fan_in_fan_out inference_mode lora_alpha
// lora_dropout modules_to_save peft_type r revision target_modules task_type. use_rslora and
// use_dora only when true: PEFT before 0.8 and 0.9 refuses keys that it does not know.
std::string AdapterConfigJson(const AdapterConfig& config);
absl::StatusOr<AdapterConfig> ParseAdapterConfig(absl::string_view json);

// Writes both files, or nothing. Tensor names as in the PEFT file:
// "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", lora_B.weight and, for DoRA,
// lora_magnitude_vector.
absl::Status WriteAdapter(const std::filesystem::path& dir, const AdapterConfig& config,
                          const std::vector<TensorView>& tensors);

}  // namespace lathe
