#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "worker/engine/model/language_model.h"

namespace lathe {

struct ExportOptions {
  std::filesystem::path output_dir;  // Empty: nothing is kept, only the hash is wanted.
  std::string base_model;            // base_model_name_or_path of adapter_config.json.
};

// Writes adapter `name` as a PEFT folder in F32, loads the files again and compares every tensor
// with the live one. Returns the sha256 of adapter_model.safetensors, which depends on the tensors
// alone. ResourceExhausted: the disk is full. DataLoss: the files are not what was written.
absl::StatusOr<std::string> ExportAdapter(LanguageModel& model, const std::string& name,
                                          const ExportOptions& options);

}  // namespace lathe
