#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/gguf.h"
#include "worker/formats/model_config.h"

namespace lathe {

// rope_freqs.weight holds what each frequency is divided by, not how Llama 3 came to it. Returns
// the setting that gives these numbers: the published one (low 1, high 4, original 8192) with the
// factor of the file. Unimplemented: another setting; InvalidArgument: another shape or type.
absl::StatusOr<RopeScaling> RopeScalingFromGguf(const GgufTensor& factors,
                                                const ModelConfig& config);

// The other way round: rope_freqs.weight, [head_dim / 2]. REQUIRES: Llama 3's scaling.
std::vector<float> GgufRopeFactors(const ModelConfig& config);

}  // namespace lathe
