#pragma once

#include <filesystem>

#include "absl/status/status.h"

namespace lathe {

// `lathe-trainer probe`: what our model makes of prompts, for a comparison with PEFT. Reads
// {"prompts": [[ids...], ...], "max_new_tokens": 40}; writes logits.safetensors ("prompt.0" [T, V]
// F32 with the adapter, "base.0" without) and greedy.json {"adapter": [[ids]], "base": [[ids]]},
// new ids only, ending early after an end token. Without an adapter only what is of the base.
// tests/oracle/README.md.
struct ProbeCommand {
  std::filesystem::path model_dir;    // Canonical folder.
  std::filesystem::path adapter_dir;  // PEFT folder. Empty: none.
  std::filesystem::path prompts_file;
  std::filesystem::path output_dir;
  std::string base_storage = "f32";  // BaseStorageOf() of the job.
  std::string device = "cpu";        // Or cuda: the first one.
  int threads = 1;
};

// FailedPrecondition: there is no GPU. InvalidArgument: a prompt is not a list of token ids of the
// model.
absl::Status RunProbeCommand(const ProbeCommand& command);

}  // namespace lathe
