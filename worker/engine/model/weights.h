#pragma once

#include <filesystem>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "worker/engine/model/language_model.h"
#include "worker/engine/model/language_model_tensors.h"
#include "worker/engine/ops/lora_linear.h"
#include "worker/formats/decoder_layout.h"
#include "worker/formats/model_config.h"
#include "worker/formats/safetensors.h"

namespace lathe {

struct LayerWeights {
  at::Tensor input_norm;           // [D]
  at::Tensor post_attention_norm;  // [D]
  at::Tensor cross_norm;           // [D], before attention to an encoder. Undefined: none.
  at::Tensor relative_bias;        // [buckets, H], in the first layer of an encoder or decoder.
  at::Tensor query_norm;           // [E], of every query head. Undefined: none; both or none.
  at::Tensor key_norm;             // [E], of every key head.
  LinearGroup groups[kNumProjections];  // By Projection.
};

// Frozen tensors are views of the mapped file where it can be: F32, and layers of a group side by
// side, as the canonical folder has them. Otherwise copies, of the type or as the codes that
// BaseStorage asks for. Trainable ones are always copies.
struct ModelWeights {
  SafetensorsFile file;
  at::Tensor embedding;     // [V, D]
  at::Tensor final_norm;    // [D]
  at::Tensor encoder_norm;  // [D], after an encoder's last layer. Undefined: there is none.
  at::Tensor head;          // [V, D]; the embedding itself when tied.
  std::vector<LayerWeights> layers;  // As LinearsOf(): an encoder's before its decoder's.
};

// LanguageModel::ParameterTensors. REQUIRES: no layer is in 4 bits.
std::vector<AdapterTensor> ParameterTensorsOf(const ModelWeights& weights,
                                              const ModelConfig& config);

at::Device DeviceOf(const ModelOptions& options);
// Of activations and products.
at::ScalarType ComputeType(const ModelOptions& options);

// InvalidArgument: a tensor is missing, extra, or has another shape or type.
absl::StatusOr<ModelWeights> LoadWeights(const std::filesystem::path& model_dir,
                                         const ModelConfig& config, const ModelOptions& options);

}  // namespace lathe
