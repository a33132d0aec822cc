#pragma once

#include "absl/strings/string_view.h"

namespace lathe {

// Whether weight decay applies to a trained tensor, by its name in the file: to all but norms and
// biases. Source: transformers, Trainer.get_decay_parameter_names; so embeddings, LoRA's A and B
// and DoRA's magnitudes decay.
bool HasWeightDecay(absl::string_view name);

}  // namespace lathe
