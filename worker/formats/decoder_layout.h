#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/formats/model_config.h"

// What the decoder of a family consists of, and how its files call the parts.

namespace lathe {

// The linear layers of a decoder layer that share their input, in the order of the computation.
enum class Projection { kQkv, kOutput, kGateUp, kDown };
inline constexpr int kNumProjections = 4;

struct LinearSpec {
  std::string name;  // Module in its layer: "self_attn.q_proj".
  Projection projection = Projection::kQkv;
  int64_t in_features = 0;
  int64_t out_features = 0;
  bool bias = false;
};

// Names are of modules: the parameters are NAME.weight and, of a linear layer, NAME.bias.
struct DecoderLayout {
  std::string embedding;
  std::string layers;  // Layer i is LAYERS.i.
  std::string final_norm;
  std::string head;
  // In a layer.
  std::string input_norm;
  std::string post_attention_norm;
  std::string query_norm;  // Per head, before the rotation. Empty: none; both or none.
  std::string key_norm;
  // Those of one Projection stand together: their outputs are queries, keys, values, and gate, up.
  std::vector<LinearSpec> linears;
  // The first rotary_dim values of a query or key head turn in pairs by position: i with i +
  // rotary_dim / 2, or, interleaved, 2 i with 2 i + 1. The others pass.
  int64_t rotary_dim = 0;
  bool interleaved_pairs = false;
  // Row of the embeddings that, as an input, is not trained: nn.Embedding's padding_idx. -1: none.
  int64_t padding_row = -1;
};

// REQUIRES: config.architecture is of a family.
DecoderLayout LayoutOf(const ModelConfig& config);

}  // namespace lathe
