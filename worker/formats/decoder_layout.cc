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
  add_norm(layout.post_attention_norm, config.hidden_size);
  AddGroup(layout, prefix, Projection::kGateUp, specs);
  AddGroup(layout, prefix, Projection::kDown, specs);
}

}  // namespace

DecoderLayout LayoutOf(const ModelConfig& config) {
  return FindFamily(config.architecture)->layout(config);
}

std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& config) {
  const DecoderLayout layout = LayoutOf(config);
  const std::vector<int64_t> table = {config.vocab_size, config.hidden_size};
  std::vector<ParameterSpec> specs = {{layout.embedding + ".weight", table}};
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    AddLayer(layout, config, absl::StrCat(layout.layers, ".", layer, "."), specs);
  }
  specs.push_back({layout.final_norm + ".weight", {config.hidden_size}});
  if (!config.tie_word_embeddings) specs.push_back({layout.head + ".weight", table});
  return specs;
}

}  // namespace lathe
