#pragma once

#include <memory>

#include "worker/engine/model/language_model.h"
#include "worker/engine/model/weights.h"
#include "worker/formats/model_config.h"

// What LanguageModel::Load makes of the weights of a family.

namespace lathe {

// Llama and those who follow it (llama.cc). REQUIRES: config.encoder_decoder is unset.
std::unique_ptr<LanguageModel> MakeDecoder(ModelConfig config, ModelWeights weights,
                                           const ModelOptions& options);
// T5 (t5.cc). REQUIRES: config.encoder_decoder is set.
std::unique_ptr<LanguageModel> MakeEncoderDecoder(ModelConfig config, ModelWeights weights,
                                                  const ModelOptions& options);

}  // namespace lathe
