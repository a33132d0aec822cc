#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "worker/engine/model/adapted_model.h"
#include "worker/engine/model/architectures.h"
#include "worker/engine/model/check_batch.h"
#include "worker/engine/model/language_model_tensors.h"
#include "worker/engine/model/layer_cache.h"
#include "worker/engine/model/relative_bias.h"
#include "worker/engine/model/source_target.h"
#include "worker/engine/ops/biased_attention.h"
#include "worker/engine/ops/checkpoint.h"
#include "worker/engine/ops/elementwise.h"
#include "worker/engine/ops/embedding.h"
#include "worker/engine/ops/token_loss.h"
#include "worker/engine/ops/widened_product.h"

// Encoder and decoder of T5 and Flan-T5. Source of the arithmetic: transformers,
// models/t5/modeling_t5.py; its dropout is left out.
// S tokens of sources, T of targets, N labels, D model width, H heads, E head width, V vocabulary.

namespace lathe {
namespace {

// Of one sequence: what its decoder has made so far, and what it sees of the source.
class T5Cache final : public KvCache {
 public:
  struct Layer {
    LayerCache self;
    at::Tensor cross_keys;    // [S, H, E]
    at::Tensor cross_values;  // [S, H, E]
  };

  explicit T5Cache(int64_t num_layers) : layers_(static_cast<size_t>(num_layers)) {}
  int64_t length() const override { return layers_[0].self.length(); }
  bool has_source() const { return layers_[0].cross_keys.defined(); }
  Layer& layer(int64_t i) { return layers_[static_cast<size_t>(i)]; }

 private:
  std::vector<Layer> layers_;
};

// What one pass through the decoder needs beside the hidden states.
struct DecoderPass {
  AdapterUse use;
  // (layer of the decoder, qkv [T, 3 H E]) -> [T, H E]
  std::function<at::Tensor(int64_t, const at::Tensor&)> self_attend;
  // (layer of the decoder, q [T, H E]) -> [T, H E]
  std::function<at::Tensor(int64_t, const at::Tensor&)> cross_attend;
};

int64_t LongestOf(const std::vector<int32_t>& begin) {
  int32_t longest = 1;
  for (size_t i = 0; i + 1 < begin.size(); ++i) {
    longest = std::max(longest, begin[i + 1] - begin[i]);
  }
  return longest;
}

class T5Lm final : public AdaptedModel {
 public:
  T5Lm(ModelConfig config, ModelWeights weights, const ModelOptions& options)
      : AdaptedModel(std::move(config), std::move(weights),
                     options.fp64 ? at::kDouble : at::kFloat),
        dtype_(options.fp64 ? at::kDouble : at::kFloat),
        checkpoint_(options.activation_checkpointing) {}

  at::Tensor LossSum(const PackedBatch& batch, const std::string& adapter, bool training,
                     uint64_t dropout_seed) override {
    const AdapterUse use = {FindAdapter(adapter), training, dropout_seed};
    return TokenLossSum(LabelStates(batch, use), weights().head, IndexTensor(batch.labels));
  }

  EvalSums Evaluate(const PackedBatch& batch, const std::string& adapter) override {
    const at::NoGradGuard no_grad;
    const at::Tensor hidden = LabelStates(batch, {.adapter = FindAdapter(adapter)});
    const TokenLossStats stats =
        MeasureTokenLoss(hidden, weights().head, IndexTensor(batch.labels));
    return {stats.loss, stats.correct, static_cast<int64_t>(batch.labels.size())};
  }

  at::Tensor Logits(const PackedBatch& batch, const std::string& adapter) override {
    const at::NoGradGuard no_grad;
    const SourceTarget split = Split(batch);
    return HeadLogits(RunPacked(split, {.adapter = FindAdapter(adapter)}));
  }

  std::unique_ptr<KvCache> NewCache() override {
    return std::make_unique<T5Cache>(own().num_decoder_layers);
  }

  using LanguageModel::Extend;
  at::Tensor Extend(const std::vector<SequencePart>& parts, const std::string& adapter) override {
    TORCH_CHECK_VALUE(!parts.empty(), "Extend got no sequence; must have at least 1");
    std::vector<at::Tensor> logits;
    for (const SequencePart& part : parts) {
      logits.push_back(ExtendOne(*part.cache, part.ids, adapter));
    }
    return at::stack(logits);
  }

 private:
  at::Tensor ExtendOne(KvCache& base_cache, const std::vector<int32_t>& ids,
                       const std::string& adapter) {
    const at::NoGradGuard no_grad;
    auto& cache = static_cast<T5Cache&>(base_cache);  // NewCache() makes no other.
    TORCH_CHECK_VALUE(!ids.empty(), "Extend got no tokens; must have at least 1");
    CheckIds(ids, config().vocab_size, "token id");
    const AdapterUse use = {.adapter = FindAdapter(adapter)};
    if (cache.has_source()) return DecodeCached(cache, ids, use);
    ReadSource(cache, ids, use);
    return DecodeCached(cache, {static_cast<int32_t>(own().start_id)}, use);
  }

  const EncoderDecoder& own() const { return *config().encoder_decoder; }
  int64_t inner() const { return config().num_heads * config().head_dim; }
  // Where the decoder's layers begin among all.
  int64_t first_decoder_layer() const { return config().num_layers; }
  const LayerWeights& LayerOf(int64_t layer) const {
    return weights().layers[static_cast<size_t>(layer)];
  }

  SourceTarget Split(const PackedBatch& batch) const {
    CheckBatch(batch, config());
    return SplitBatch(batch, static_cast<int32_t>(own().start_id));
  }

  at::Tensor Embed(const std::vector<int32_t>& ids) const {
    return Embedding(weights().embedding, IndexTensor(ids)).to(dtype_);
  }

  at::Tensor Norm(const at::Tensor& hidden, const at::Tensor& weight) const {
    return RmsNorm(hidden, weight, config().rms_norm_eps);
  }

  at::Tensor ProjectIn(int64_t layer, Projection projection, const at::Tensor& x,
                       const AdapterUse& use) const {
    return Project(x, LayerOf(layer).groups[static_cast<size_t>(projection)], layer, projection,
                   use);
  }

  // Of the tokens of documents of at most `max_length` tokens among themselves.
  at::Tensor BiasOf(int64_t first_layer, int64_t max_length) const {
    const bool is_encoder = first_layer == 0;
    return RelativeBias(LayerOf(first_layer).relative_bias, max_length, is_encoder, own());
  }

  // qkv [T, 3 H E] -> [T, H E]
  at::Tensor AttendPacked(const at::Tensor& qkv, const at::Tensor& bias, bool causal,
                          const std::vector<int32_t>& begin) const {
    const std::vector<at::Tensor> parts = at::split_with_sizes(qkv, {inner(), 2 * inner()}, 1);
    return BiasedAttention(parts[0], parts[1], bias, {config().num_heads, causal}, {begin, begin});
  }

  at::Tensor FeedForward(int64_t layer, const at::Tensor& hidden, const AdapterUse& use) const {
    const at::Tensor normed = Norm(hidden, LayerOf(layer).post_attention_norm);
    const at::Tensor wide = ProjectIn(layer, Projection::kGateUp, normed, use);
    const at::Tensor active = own().gated ? GatedGelu(wide) : at::relu(wide);
    return hidden + ProjectIn(layer, Projection::kDown, active, use);
  }

  // Whether layers keep their input alone for backward.
  bool checkpoints(const AdapterUse& use) const { return checkpoint_ && use.training; }

  // One layer over what it takes from others: they all have a gradient.
  static at::Tensor RunOver(const std::vector<at::Tensor>& inputs, bool checkpoint,
                            std::function<at::Tensor(const std::vector<at::Tensor>&)> layer) {
    return checkpoint ? Checkpoint(inputs, std::move(layer)) : layer(inputs);
  }

  // Normed states, [S, D].
  at::Tensor Encode(const std::vector<int32_t>& ids, const std::vector<int32_t>& begin,
                    const AdapterUse& use) const {
    const at::Tensor bias = BiasOf(0, LongestOf(begin));
    at::Tensor hidden = Embed(ids);
    for (int64_t i = 0; i < config().num_layers; ++i) {
      const auto layer = [this, i, use, begin](const std::vector<at::Tensor>& inputs) {
        const at::Tensor& x = inputs[0];
        const at::Tensor qkv = ProjectIn(i, Projection::kQkv, Norm(x, LayerOf(i).input_norm), use);
        const at::Tensor attended = AttendPacked(qkv, inputs[1], /*causal=*/false, begin);
        return FeedForward(i, x + ProjectIn(i, Projection::kOutput, attended, use), use);
      };
      hidden = RunOver({hidden, bias}, checkpoints(use), layer);
    }
    return Norm(hidden, weights().encoder_norm);
  }

  at::Tensor RunDecoderLayer(int64_t i, at::Tensor hidden, const DecoderPass& pass) const {
    const int64_t layer = first_decoder_layer() + i;
    const LayerWeights& of_layer = LayerOf(layer);
    const auto project = [&](Projection projection, const at::Tensor& x) {
      return ProjectIn(layer, projection, x, pass.use);
    };
    const at::Tensor qkv = project(Projection::kQkv, Norm(hidden, of_layer.input_norm));
    hidden = hidden + project(Projection::kOutput, pass.self_attend(i, qkv));
    const at::Tensor q = project(Projection::kCrossQuery, Norm(hidden, of_layer.cross_norm));
    hidden = hidden + project(Projection::kCrossOutput, pass.cross_attend(i, q));
    return FeedForward(layer, hidden, pass.use);
  }

  at::Tensor CrossKeysValues(int64_t decoder_layer, const at::Tensor& states,
                             const AdapterUse& use) const {
    return ProjectIn(first_decoder_layer() + decoder_layer, Projection::kCrossKeyValue, states,
                     use);
  }

  // After the decoder's last layer, before its norm, [T, D].
  at::Tensor RunPacked(const SourceTarget& split, const AdapterUse& use) const {
    const at::Tensor states = Encode(split.source_ids, split.source_begin, use);
    const at::Tensor bias = BiasOf(first_decoder_layer(), LongestOf(split.target_begin));
    const DocumentPairs documents = {split.target_begin, split.source_begin};
    at::Tensor hidden = Embed(split.decoder_ids);
    for (int64_t i = 0; i < own().num_decoder_layers; ++i) {
      const auto layer = [this, i, use, documents](const std::vector<at::Tensor>& inputs) {
        return RunDecoderLayer(i, inputs[0], PackedPass(use, inputs[1], inputs[2], documents));
      };
      hidden = RunOver({hidden, states, bias}, checkpoints(use), layer);
    }
    return hidden;
  }

  DecoderPass PackedPass(const AdapterUse& use, const at::Tensor& states, const at::Tensor& bias,
                         const DocumentPairs& documents) const {
    return {.use = use,
            .self_attend =
                [=, this](int64_t, const at::Tensor& qkv) {
                  return AttendPacked(qkv, bias, /*causal=*/true, documents.query_begin);
                },
            .cross_attend =
                [=, this](int64_t i, const at::Tensor& q) {
                  return BiasedAttention(q, CrossKeysValues(i, states, use), /*bias=*/{},
                                         {config().num_heads, /*causal=*/false}, documents);
                }};
  }

  // What the head takes: normed, and with a tied head scaled, [T, D].
  at::Tensor HeadStates(const at::Tensor& hidden) const {
    const at::Tensor normed = Norm(hidden, weights().final_norm);
    if (!config().tie_word_embeddings) return normed;
    return normed * (1 / std::sqrt(static_cast<double>(config().hidden_size)));
  }

  at::Tensor HeadLogits(const at::Tensor& hidden) const {
    at::Tensor logits = at::empty({hidden.size(0), weights().head.size(0)}, hidden.options());
    ProductInto(logits, HeadStates(hidden), weights().head);
    return logits;
  }

  // At label positions, [N, D].
  at::Tensor LabelStates(const PackedBatch& batch, const AdapterUse& use) const {
    const SourceTarget split = Split(batch);
    const at::Tensor hidden = RunPacked(split, use);
    return HeadStates(hidden.index_select(0, IndexTensor(split.label_positions)));
  }

  void ReadSource(T5Cache& cache, const std::vector<int32_t>& ids, const AdapterUse& use) const {
    const at::Tensor states = Encode(ids, {0, static_cast<int32_t>(ids.size())}, use);
    for (int64_t i = 0; i < own().num_decoder_layers; ++i) {
      const at::Tensor both =
          CrossKeysValues(i, states, use)
              .view({states.size(0), 2 * config().num_heads, config().head_dim});
      cache.layer(i).cross_keys = both.narrow(1, 0, config().num_heads);
      cache.layer(i).cross_values = both.narrow(1, config().num_heads, config().num_heads);
    }
  }

  // Logits after the last of `ids`, [V].
  at::Tensor DecodeCached(T5Cache& cache, const std::vector<int32_t>& ids,
                          const AdapterUse& use) const {
    const int64_t position = cache.length();
    const auto count = static_cast<int64_t>(ids.size());
    TORCH_CHECK_VALUE(position + count <= config().max_positions, "target has ", position + count,
                      " tokens; the model allows ", config().max_positions);
    const at::Tensor bias = BiasOf(first_decoder_layer(), position + count);
    const auto heads = [&](const at::Tensor& x) {
      return x.view({x.size(0), -1, config().head_dim});
    };
    const DecoderPass pass = {
        .use = use,
        .self_attend =
            [&](int64_t i, const at::Tensor& qkv) {
              const std::vector<at::Tensor> parts = heads(qkv).split(config().num_heads, 1);
              const LayerCache::View cached = cache.layer(i).self.Append(parts[1], parts[2]);
              return BiasedAttendToCache(parts[0], cached.keys, cached.values, bias,
                                         /*causal=*/true, position);
            },
        .cross_attend =
            [&](int64_t i, const at::Tensor& q) {
              const T5Cache::Layer& source = cache.layer(i);
              return BiasedAttendToCache(heads(q), source.cross_keys, source.cross_values,
                                         /*bias=*/{}, /*causal=*/false, position);
            }};
    at::Tensor hidden = Embed(ids);
    for (int64_t i = 0; i < own().num_decoder_layers; ++i)
      hidden = RunDecoderLayer(i, hidden, pass);
    return HeadLogits(hidden.narrow(0, count - 1, 1)).squeeze(0);
  }

  const at::ScalarType dtype_;
  const bool checkpoint_;
};

}  // namespace

std::unique_ptr<LanguageModel> MakeEncoderDecoder(ModelConfig config, ModelWeights weights,
                                                  const ModelOptions& options) {
  return std::make_unique<T5Lm>(std::move(config), std::move(weights), options);
}

}  // namespace lathe
