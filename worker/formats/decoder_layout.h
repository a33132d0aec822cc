#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/formats/model_config.h"

// What the layers of a family consist of, and how its files call the parts.

namespace lathe {

// The linear layers of a layer that share their input. kCross: attention of a decoder to the states
// of an encoder, of which keys and values are made.
enum class Projection { kQkv, kOutput, kGateUp, kDown, kCrossQuery, kCrossKeyValue, kCrossOutput };
inline constexpr int kNumProjections = 7;

struct LinearSpec {
  std::string name;  // Module in its layer: "self_attn.q_proj".
  Projection projection = Projection::kQkv;
  int64_t in_features = 0;
  int64_t out_features = 0;
  bool bias = false;
  bool never_quantized = false;  // Stays as it is where the others become 4-bit codes.
};

// A stack of layers that are alike. Names are of modules: the parameters are NAME.weight and, of a
// linear layer, NAME.bias.
struct DecoderLayout {
  std::string embedding;
  std::string layers;  // Layer i is LAYERS.i.
  std::string final_norm;
  std::string head;
  // What a file may have beside the parameters: the embedding again, or for `embedding`; and
  // weights that nobody reads.
  std::vector<std::string> embedding_copies = {};
  std::vector<std::string> unused = {};
  // In a layer.
  std::string input_norm;
  std::string post_attention_norm;
  std::string query_norm;  // Per head, before the rotation. Empty: none; both or none.
  std::string key_norm;
  std::string cross_norm = {};  // Before the attention to an encoder. Empty: there is none.
  // [buckets, heads], in layer 0, for all of them; EncoderDecoder. Empty: none.
  std::string relative_bias = {};
  // In the order of the computation. Those of one Projection stand together: their outputs are
  // queries, keys, values, and gate, up.
  std::vector<LinearSpec> linears;
  // The first rotary_dim values of a query or key head turn in pairs by position: i with i +
  // rotary_dim / 2, or, interleaved, 2 i with 2 i + 1. The others pass.
  int64_t rotary_dim = 0;
  bool interleaved_pairs = false;
  // Row of the embeddings that, as an input, is not trained: nn.Embedding's padding_idx. -1: none.
  int64_t padding_row = -1;
};

struct LayerStack {
  DecoderLayout layout;
  int64_t num_layers = 0;
};

// All take a config whose architecture is of a family.
// The decoder's, which also has what there is once: embedding and head.
DecoderLayout LayoutOf(const ModelConfig& config);
// A decoder alone, or an encoder and its decoder.
std::vector<LayerStack> StacksOf(const ModelConfig& config);

struct LayerLinears {
  std::string prefix;  // "model.layers.3."
  std::vector<LinearSpec> linears;
};
// Of every layer, an encoder's before its decoder's.
std::vector<LayerLinears> LinearsOf(const ModelConfig& config);

}  // namespace lathe
