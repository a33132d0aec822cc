#include "worker/formats/decoder_layout.h"

#include "absl/strings/str_cat.h"
#include "worker/formats/model_family.h"

namespace lathe {
namespace {

// Weights of a group stand side by side, and so do their biases: the engine maps them as one.
void AddGroup(const DecoderLayout& layout, const std::string& prefix, Projection projection,
              std::vector<ParameterSpec>& specs) {
  for (const LinearSpec& linear : layout.linears) {
    if (linear.projection != projection) continue;
    specs.push_back(
        {absl::StrCat(prefix, linear.name, ".weight"), {linear.out_features, linear.in_features}});
  }
  for (const LinearSpec& linear : layout.linears) {
    if (linear.projection != projection || !linear.bias) continue;
    specs.push_back({absl::StrCat(prefix, linear.name, ".bias"), {linear.out_features}});
  }
}

void AddCrossAttention(const DecoderLayout& layout, const ModelConfig& config,
                       const std::string& prefix, std::vector<ParameterSpec>& specs) {
  if (layout.cross_norm.empty()) return;
  specs.push_back({absl::StrCat(prefix, layout.cross_norm, ".weight"), {config.hidden_size}});
  AddGroup(layout, prefix, Projection::kCrossQuery, specs);
  AddGroup(layout, prefix, Projection::kCrossKeyValue, specs);
  AddGroup(layout, prefix, Projection::kCrossOutput, specs);
}

void AddLayer(const DecoderLayout& layout, const ModelConfig& config, const std::string& prefix,
              std::vector<ParameterSpec>& specs) {
  const auto add_norm = [&](const std::string& name, int64_t width) {
    specs.push_back({absl::StrCat(prefix, name, ".weight"), {width}});
  };
  add_norm(layout.input_norm, config.hidden_size);
  AddGroup(layout, prefix, Projection::kQkv, specs);
  if (!layout.query_norm.empty()) {
    add_norm(layout.query_norm, config.head_dim);
    add_norm(layout.key_norm, config.head_dim);
  }
  AddGroup(layout, prefix, Projection::kOutput, specs);
  AddCrossAttention(layout, config, prefix, specs);
  add_norm(layout.post_attention_norm, config.hidden_size);
  AddGroup(layout, prefix, Projection::kGateUp, specs);
  AddGroup(layout, prefix, Projection::kDown, specs);
}

void AddStack(const LayerStack& stack, const ModelConfig& config,
              std::vector<ParameterSpec>& specs) {
  const DecoderLayout& layout = stack.layout;
  for (int64_t layer = 0; layer < stack.num_layers; ++layer) {
    const std::string prefix = absl::StrCat(layout.layers, ".", layer, ".");
    AddLayer(layout, config, prefix, specs);
    if (layer > 0 || layout.relative_bias.empty()) continue;
    specs.push_back({absl::StrCat(prefix, layout.relative_bias, ".weight"),
                     {config.encoder_decoder->num_buckets, config.num_heads}});
  }
  specs.push_back({layout.final_norm + ".weight", {config.hidden_size}});
}

}  // namespace

DecoderLayout LayoutOf(const ModelConfig& config) {
  return FindFamily(config.architecture)->layout(config);
}

std::vector<LayerStack> StacksOf(const ModelConfig& config) {
  const ModelFamily& family = *FindFamily(config.architecture);
  if (family.encoder_layout == nullptr) return {{family.layout(config), config.num_layers}};
  return {{family.encoder_layout(config), config.num_layers},
          {family.layout(config), config.encoder_decoder->num_decoder_layers}};
}

std::vector<LayerLinears> LinearsOf(const ModelConfig& config) {
  std::vector<LayerLinears> layers;
  for (const LayerStack& stack : StacksOf(config)) {
    for (int64_t layer = 0; layer < stack.num_layers; ++layer) {
      layers.push_back({absl::StrCat(stack.layout.layers, ".", layer, "."), stack.layout.linears});
    }
  }
  return layers;
}

std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& config) {
  const DecoderLayout layout = LayoutOf(config);
  const std::vector<int64_t> table = {config.vocab_size, config.hidden_size};
  std::vector<ParameterSpec> specs = {{layout.embedding + ".weight", table}};
  for (const LayerStack& stack : StacksOf(config)) AddStack(stack, config, specs);
  if (!config.tie_word_embeddings) specs.push_back({layout.head + ".weight", table});
  return specs;
}

}  // namespace lathe
