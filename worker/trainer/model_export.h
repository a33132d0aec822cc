#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "worker/engine/model/language_model.h"

namespace lathe {

// Writes the model's parameters and every other file of `source_dir`, the canonical folder that it
// was loaded from, as a canonical folder of its own: F32, canonical order. Filled as a whole or not
// at all. `output_dir` empty: nothing is written, only the hash is wanted.
// Returns the sha256 of model.safetensors, which depends on the parameters alone.
// ResourceExhausted: the disk is full. DataLoss: the file is not what was written.
absl::StatusOr<std::string> ExportModel(LanguageModel& model,
                                        const std::filesystem::path& source_dir,
                                        const std::filesystem::path& output_dir);

}  // namespace lathe
