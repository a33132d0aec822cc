#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"

namespace lathe::cli {

struct MergeRequest {
  std::filesystem::path base;     // Canonical folder.
  std::filesystem::path adapter;  // PEFT folder; empty: the base alone.
  std::filesystem::path to;       // New or empty; of a GGUF the file, not there yet.
  std::string dtype;              // "f32", "bf16" or "f16"; empty: f32. Not of a GGUF.
  std::string shard_size;         // "5GB"; empty: one file. Not of a GGUF.
  std::string gguf;               // "f16" or "q8_0"; empty: a Hugging Face folder.
  std::string name;               // Of the model, for a GGUF.
};

// Runs `lathe-prepare merge`, the program beside this one, and waits for it: model files are parsed
// in a process of their own, and this one links no tensor code. Its messages go to standard error.
// NotFound: the program is not there. FailedPrecondition: it failed.
absl::Status MergeFolders(const MergeRequest& request);

}  // namespace lathe::cli
