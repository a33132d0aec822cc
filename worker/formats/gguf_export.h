#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "worker/formats/gguf.h"

namespace lathe {

struct GgufExportOptions {
  GgmlType type = GgmlType::kF16;  // Of matrices: F16 or Q8_0. Vectors are F32.
  std::string name;                // general.name. Empty: the file's own without ".gguf".
};

// Writes base and adapter as one GGUF file, as llama.cpp's converter writes that of the merged
// Hugging Face folder (conversion/base.py and llama.py): the same keys, names, order of rows and
// types. Weights are merged in 32-bit floats (merged_weights.h) and rounded once. In a Q8_0 file a
// matrix whose rows are no multiple of 32 is F16. Memory: the tokenizer, one adapter layer, one
// row.
//
// `base_dir` is a canonical folder, `adapter_dir` a PEFT folder, or empty for the base alone;
// `file` ends in ".gguf" and is not there yet: it is written as a whole or not at all.
// InvalidArgument: a tensor that does not fit, or a value that is not finite in the type.
// Unimplemented: a family, rotary scaling or tokenizer that GGUF has no form for.
// `progress` (may be null) gets a line now and then.
absl::Status ExportGguf(const std::filesystem::path& base_dir,
                        const std::filesystem::path& adapter_dir, const std::filesystem::path& file,
                        const GgufExportOptions& options,
                        const std::function<void(const std::string&)>& progress);

}  // namespace lathe
