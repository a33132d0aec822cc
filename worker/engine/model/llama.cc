#include <ATen/ATen.h>

#include <functional>
#include <utility>

#include "worker/engine/model/adapted_model.h"
#include "worker/engine/model/architectures.h"
#include "worker/engine/model/check_batch.h"
#include "worker/engine/model/language_model_tensors.h"
#include "worker/engine/model/layer_cache.h"
#include "worker/engine/model/rope_frequencies.h"
#include "worker/engine/ops/attention.h"
#include "worker/engine/ops/checkpoint.h"
#include "worker/engine/ops/elementwise.h"
#include "worker/engine/ops/embedding.h"
#include "worker/engine/ops/staging.h"
#include "worker/engine/ops/token_loss.h"
#include "worker/engine/ops/widened_product.h"

// Decoder of Llama and those who follow it. Source of the arithmetic: transformers,
// models/llama/modeling_llama.py; qwen2 (biases), qwen3 (norms of query and key heads).
// T tokens, N labels, D model width, H query heads, K key heads, E head width, V vocabulary.

namespace lathe {
namespace {

// Keys are stored rotated.
class LlamaCache final : public KvCache {
 public:
  explicit LlamaCache(int64_t num_layers) : layers_(static_cast<size_t>(num_layers)) {}
  int64_t length() const override { return layers_[0].length(); }
  LayerCache& layer(int64_t i) { return layers_[static_cast<size_t>(i)]; }

 private:
  std::vector<LayerCache> layers_;
};

// Tokens of several sequences one after the other.
struct CachedPart {
  LlamaCache* cache = nullptr;
  int64_t begin = 0;  // Of its tokens in the batch.
  int64_t count = 0;
};
struct CachedBatch {
  std::vector<CachedPart> parts;
  std::vector<int32_t> ids;        // [T]
  std::vector<int32_t> positions;  // [T]
  std::vector<int32_t> last;       // [B], the last token of each part.
};

// What one pass through the layers needs beside the hidden states.
struct Pass {
  AdapterUse use;
  bool checkpoint = false;  // Layers keep their input alone; then `attend` owns what it uses.
  // (layer, qkv [T, (H + 2 K) E]) -> [T, H E]
  std::function<at::Tensor(int64_t, const at::Tensor&)> attend;
};

// Of adapters, and of what is computed in wide floats.
at::TensorOptions WideOf(const ModelOptions& options) {
  return at::TensorOptions()
      .device(DeviceOf(options))
      .dtype(options.fp64 ? at::kDouble : at::kFloat);
}

class LlamaLm final : public AdaptedModel {
 public:
  LlamaLm(ModelConfig config, ModelWeights weights, const ModelOptions& options)
      : AdaptedModel(std::move(config), std::move(weights), WideOf(options)),
        device_(DeviceOf(options)),
        dtype_(ComputeType(options)),
        wide_(WideOf(options)),
        checkpoint_(options.activation_checkpointing),
        rope_frequencies_(
            RopeFrequencies(this->config(), wide_.dtype().toScalarType()).to(device_)),
        interleaved_pairs_(LayoutOf(this->config()).interleaved_pairs),
        padding_row_(LayoutOf(this->config()).padding_row) {}

  at::Tensor LossSum(const PackedBatch& batch, const std::string& adapter, bool training,
                     uint64_t dropout_seed) override {
    const at::Tensor hidden = LabelStates(batch, adapter, training, dropout_seed);
    return TokenLossSum(hidden, weights().head, Indices(batch.labels));
  }

  EvalSums Evaluate(const PackedBatch& batch, const std::string& adapter) override {
    const at::NoGradGuard no_grad;
    const at::Tensor hidden = LabelStates(batch, adapter, /*training=*/false, 0);
    const TokenLossStats stats = MeasureTokenLoss(hidden, weights().head, Indices(batch.labels));
    return {stats.loss, stats.correct, static_cast<int64_t>(batch.labels.size())};
  }

  at::Tensor Logits(const PackedBatch& batch, const std::string& adapter) override {
    const at::NoGradGuard no_grad;
    const at::Tensor hidden = FinalStates(batch, adapter, /*training=*/false, 0);
    return HeadLogits(hidden);
  }

  std::unique_ptr<KvCache> NewCache() override {
    return std::make_unique<LlamaCache>(config().num_layers);
  }

  using LanguageModel::Extend;
  at::Tensor Extend(const std::vector<SequencePart>& parts, const std::string& adapter) override {
    const at::NoGradGuard no_grad;
    const CachedBatch batch = Gather(parts);
    const RopeTable rope = Rope(Indices(batch.positions));
    const Pass pass = {.use = {.adapter = FindAdapter(adapter)},
                       .checkpoint = false,
                       .attend = [&](int64_t layer, const at::Tensor& qkv) {
                         return AttendCached(batch, layer, qkv, rope);
                       }};
    const at::Tensor hidden = RunLayers(Embed(batch.ids), pass);
    return HeadLogits(hidden.index_select(0, Indices(batch.last)));
  }

 private:
  HeadShape heads() const { return {config().num_heads, config().num_kv_heads, config().head_dim}; }

  at::Tensor Indices(const std::vector<int32_t>& values) const {
    return IndexTensor(values, device_);
  }

  // The angles are computed in wide floats.
  RopeTable Rope(const at::Tensor& positions) const {
    RopeTable rope = MakeRopeTable(positions, rope_frequencies_, interleaved_pairs_);
    return {rope.cos.to(dtype_), rope.sin.to(dtype_), rope.interleaved};
  }

  at::Tensor Embed(const std::vector<int32_t>& ids) const {
    return Embedding(weights().embedding, Indices(ids), padding_row_).to(dtype_);
  }

  // [T, D] -> [T, V] on the CPU, without gradient.
  at::Tensor HeadLogits(const at::Tensor& hidden) const {
    const at::Tensor normed = RmsNorm(hidden, weights().final_norm, config().rms_norm_eps);
    at::Tensor logits = at::empty({hidden.size(0), weights().head.size(0)}, hidden.options());
    ProductInto(logits, normed, weights().head);
    return logits.to(wide_.device(at::kCPU));
  }

  // Normed hidden states at label positions, [N, D].
  at::Tensor LabelStates(const PackedBatch& batch, const std::string& adapter, bool training,
                         uint64_t dropout_seed) const {
    const at::Tensor hidden = FinalStates(batch, adapter, training, dropout_seed);
    const at::Tensor at_labels = hidden.index_select(0, Indices(batch.label_positions));
    return RmsNorm(at_labels, weights().final_norm, config().rms_norm_eps);
  }

  // After the last layer, before the final norm, [T, D].
  at::Tensor FinalStates(const PackedBatch& batch, const std::string& adapter, bool training,
                         uint64_t dropout_seed) const {
    CheckBatch(batch, config());
    const RopeTable rope = Rope(Indices(batch.positions));
    const at::Tensor cumulative =
        device_.is_cpu() ? at::Tensor() : Stage(batch.document_begin, device_);
    const Pass pass = {.use = {FindAdapter(adapter), training, dropout_seed},
                       .checkpoint = checkpoint_ && training,
                       .attend = [rope, cumulative, shape = heads(), begin = batch.document_begin](
                                     int64_t, const at::Tensor& qkv) {
                         return PackedAttention(qkv, rope, shape, begin, cumulative);
                       }};
    return RunLayers(Embed(batch.ids), pass);
  }

  at::Tensor RunLayers(at::Tensor hidden, const Pass& pass) const {
    for (int64_t i = 0; i < config().num_layers; ++i) {
      hidden = pass.checkpoint ? Checkpoint({hidden}, LayerFunction(i, pass))
                               : RunLayer(i, hidden, pass);
    }
    return hidden;
  }

  // For backward, when the pass is over: it owns a copy.
  std::function<at::Tensor(const std::vector<at::Tensor>&)> LayerFunction(int64_t layer,
                                                                          const Pass& pass) const {
    return [this, layer, pass](const std::vector<at::Tensor>& x) {
      return RunLayer(layer, x[0], pass);
    };
  }

  at::Tensor RunLayer(int64_t layer, const at::Tensor& hidden, const Pass& pass) const {
    const LayerWeights& own = weights().layers[static_cast<size_t>(layer)];
    const double eps = config().rms_norm_eps;
    const auto project = [&](Projection projection, const at::Tensor& x) {
      return Project(x, own.groups[static_cast<size_t>(projection)], layer, projection, pass.use);
    };
    at::Tensor qkv = project(Projection::kQkv, RmsNorm(hidden, own.input_norm, eps));
    if (own.query_norm.defined()) qkv = NormHeads(qkv, HeadNorms(own), eps);
    const at::Tensor attended = hidden + project(Projection::kOutput, pass.attend(layer, qkv));
    const at::Tensor gate_up =
        project(Projection::kGateUp, RmsNorm(attended, own.post_attention_norm, eps));
    return attended + project(Projection::kDown, SwiGlu(gate_up));
  }

  // One row per query head, then one per key head, [H + K, E].
  at::Tensor HeadNorms(const LayerWeights& weights) const {
    return at::cat({weights.query_norm.expand({config().num_heads, -1}),
                    weights.key_norm.expand({config().num_kv_heads, -1})});
  }

  // REQUIRES: NewCache() made the caches.
  CachedBatch Gather(const std::vector<SequencePart>& parts) const {
    TORCH_CHECK_VALUE(!parts.empty(), "Extend got no sequence; must have at least 1");
    CachedBatch batch;
    for (const SequencePart& part : parts) {
      auto* const cache = static_cast<LlamaCache*>(part.cache);
      const auto count = static_cast<int64_t>(part.ids.size());
      TORCH_CHECK_VALUE(count > 0, "Extend got no tokens; must have at least 1");
      CheckIds(part.ids, config().vocab_size, "token id");
      TORCH_CHECK_VALUE(cache->length() + count <= config().max_positions, "sequence has ",
                        cache->length() + count, " tokens; the model allows ",
                        config().max_positions);
      batch.parts.push_back({cache, static_cast<int64_t>(batch.ids.size()), count});
      batch.ids.insert(batch.ids.end(), part.ids.begin(), part.ids.end());
      for (int64_t i = 0; i < count; ++i) {
        batch.positions.push_back(static_cast<int32_t>(cache->length() + i));
      }
      batch.last.push_back(static_cast<int32_t>(batch.ids.size()) - 1);
    }
    return batch;
  }

  at::Tensor AttendCached(const CachedBatch& batch, int64_t layer, const at::Tensor& qkv,
                          const RopeTable& rope) const {
    const HeadShape shape = heads();
    const at::Tensor all = qkv.view({qkv.size(0), -1, shape.head_dim});  // [T, H + 2 K, E]
    const int64_t num_rotated = shape.num_heads + shape.num_kv_heads;
    const at::Tensor rotated = RotateHeads(all.narrow(1, 0, num_rotated), rope);
    std::vector<at::Tensor> attended;
    for (const CachedPart& part : batch.parts) {
      const at::Tensor own = rotated.narrow(0, part.begin, part.count);
      const at::Tensor values =
          all.narrow(0, part.begin, part.count).narrow(1, num_rotated, shape.num_kv_heads);
      const LayerCache::View cached = part.cache->layer(layer).Append(
          own.narrow(1, shape.num_heads, shape.num_kv_heads), values);
      attended.push_back(
          AttendToCache(own.narrow(1, 0, shape.num_heads), cached.keys, cached.values));
    }
    return attended.size() == 1 ? attended[0] : at::cat(attended);
  }

  const at::Device device_;
  const at::ScalarType dtype_;    // Of activations and products.
  const at::TensorOptions wide_;  // Of adapters, on the device: F32, or F64.
  const bool checkpoint_;
  const at::Tensor rope_frequencies_;  // [R / 2]
  const bool interleaved_pairs_;
  const int64_t padding_row_;
};

}  // namespace

std::unique_ptr<LanguageModel> MakeDecoder(ModelConfig config, ModelWeights weights,
                                           const ModelOptions& options) {
  return std::make_unique<LlamaLm>(std::move(config), std::move(weights), options);
}

}  // namespace lathe
