#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/safetensors.h"

// The PEFT adapter folder: adapter_config.json (12 keys) and adapter_model.safetensors.
// semantics.md section 4.

namespace lathe {

struct AdapterConfig {
  std::string base_model;
  int64_t rank = 8;
  double alpha = 16;
  double dropout = 0;
  std::vector<std::string> target_modules;  // Module names: "q_proj". Sorted in the file.
};

// Keys, sorted, indent 2: base_model_name_or_path bias fan_in_fan_out inference_mode lora_alpha
// lora_dropout modules_to_save peft_type r revision target_modules task_type.
std::string AdapterConfigJson(const AdapterConfig& config);
absl::StatusOr<AdapterConfig> ParseAdapterConfig(absl::string_view json);

// Writes both files, or nothing. Tensor names as in the PEFT file:
// "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight".
absl::Status WriteAdapter(const std::filesystem::path& dir, const AdapterConfig& config,
                          const std::vector<TensorView>& tensors);

}  // namespace lathe
