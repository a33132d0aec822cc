#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "worker/formats/dtype.h"

namespace lathe {

struct MergeOptions {
  Dtype dtype = Dtype::kF32;     // Of the written weights: F32, BF16 or F16.
  uint64_t max_shard_bytes = 0;  // 0: one file; sharded_safetensors.h.
};

// Writes the model that the adapter makes of its base as a folder of its own: W + s B A for every
// layer that has an update, and with DoRA every row of that scaled to its magnitude, computed in
// 32-bit floats and rounded once, to nearest even, to `dtype`. The other tensors and the base's
// other files are taken over. Memory: the adapter and one row; all tensors lie in mapped files.
// Source: peft:src/peft/tuners/lora, Linear.merge and DoraLinearVariant.merge_safe.
//
// `base_dir` is a canonical folder, `adapter_dir` a PEFT folder or empty for the base alone,
// `output` new or empty: filled as a whole or not at all. InvalidArgument: a tensor does not fit
// the base, or a merged value is not finite. `progress` (may be null) gets a line now and then.
absl::Status MergeAdapter(const std::filesystem::path& base_dir,
                          const std::filesystem::path& adapter_dir,
                          const std::filesystem::path& output, const MergeOptions& options,
                          const std::function<void(const std::string&)>& progress);

}  // namespace lathe
