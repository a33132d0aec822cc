#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"

namespace lathe::cli {

struct MergeRequest {
  std::filesystem::path base;     // Canonical folder.
  std::filesystem::path adapter;  // PEFT folder.
  std::filesystem::path to;       // New or empty.
  std::string dtype;              // "f32", "bf16" or "f16".
  std::string shard_size;         // "5GB"; empty: one file.
};

// Runs `lathe-prepare merge`, the program beside this one, and waits for it: model files are parsed
// in a process of their own, and this one links no tensor code. Its messages go to standard error.
// NotFound: the program is not there. FailedPrecondition: it failed.
absl::Status MergeFolders(const MergeRequest& request);

}  // namespace lathe::cli
