#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "worker/engine/model/adapter.h"
#include "worker/engine/model/causal_lm.h"
#include "worker/engine/model/causal_lm_tensors.h"
#include "worker/engine/model/rope_frequencies.h"
#include "worker/engine/model/weights.h"
#include "worker/engine/ops/attention.h"
#include "worker/engine/ops/checkpoint.h"
#include "worker/engine/ops/counter_random.h"
#include "worker/engine/ops/elementwise.h"
#include "worker/engine/ops/embedding.h"
#include "worker/engine/ops/lora_linear.h"
#include "worker/engine/ops/token_loss.h"
#include "worker/engine/ops/widened_product.h"

// Decoder of Llama and those who follow it. Source of the arithmetic: transformers,
// models/llama/modeling_llama.py; qwen2 (biases), qwen3 (norms of query and key heads).
// T tokens, N labels, D model width, H query heads, K key heads, E head width, V vocabulary.

namespace lathe {
namespace {

// Keys are stored rotated. Buffers grow by doubling.
class LlamaCache final : public KvCache {
 public:
  struct Layer {
    at::Tensor keys;    // [capacity, K, E]
    at::Tensor values;  // [capacity, K, E]
  };

  explicit LlamaCache(int64_t num_layers) : layers_(static_cast<size_t>(num_layers)) {}

  int64_t length() const override { return length_; }
  void Advance(int64_t count) { length_ += count; }

  // Writes `count` tokens behind the cached ones; returns views of all, [length + count, K, E].
  Layer Append(int64_t layer, const at::Tensor& keys, const at::Tensor& values) {
    Layer& store = layers_[static_cast<size_t>(layer)];
    const int64_t end = length_ + keys.size(0);
    Reserve(store.keys, keys, end);
    Reserve(store.values, values, end);
    store.keys.narrow(0, length_, keys.size(0)).copy_(keys);
    store.values.narrow(0, length_, values.size(0)).copy_(values);
    return {store.keys.narrow(0, 0, end), store.values.narrow(0, 0, end)};
  }

 private:
  static constexpr int64_t kMinCapacity = 256;

  void Reserve(at::Tensor& store, const at::Tensor& like, int64_t count) const {
    if (store.defined() && store.size(0) >= count) return;
    const int64_t old = store.defined() ? store.size(0) : 0;
    std::vector<int64_t> shape = like.sizes().vec();
    shape[0] = std::max({kMinCapacity, 2 * old, count});
    at::Tensor grown = at::empty(shape, like.options());
    if (length_ > 0) grown.narrow(0, 0, length_).copy_(store.narrow(0, 0, length_));
    store = grown;
  }

  std::vector<Layer> layers_;
  int64_t length_ = 0;
};

// What one pass through the layers needs beside the hidden states.
struct Pass {
  const Adapter* adapter = nullptr;  // Null: the base alone.
  bool dropout = false;
  uint64_t dropout_seed = 0;
  bool checkpoint = false;  // Layers keep their input alone; then `attend` owns what it uses.
  // (layer, qkv [T, (H + 2 K) E]) -> [T, H E]
  std::function<at::Tensor(int64_t, const at::Tensor&)> attend;
};

at::Tensor IndexTensor(const std::vector<int32_t>& values) {
  return at::tensor(at::ArrayRef<int32_t>(values), at::kInt).to(at::kLong);
}

// The caller's batch is built from files, so it is checked before it indexes memory.
void CheckIds(const std::vector<int32_t>& ids, int64_t limit, const char* what) {
  for (const int32_t id : ids) {
    TORCH_CHECK_VALUE(id >= 0 && id < limit, what, " is ", id, "; must be in [0, ", limit, ")");
  }
}

void CheckPositions(const std::vector<int32_t>& positions, int64_t limit) {
  for (const int32_t position : positions) {
    TORCH_CHECK_VALUE(position >= 0, "token position is ", position, "; must be at least 0");
    TORCH_CHECK_VALUE(position < limit, "a row has more than ", limit,
                      " tokens, which is all that this model allows; set max_length to at most ",
                      limit);
  }
}

void CheckBatch(const PackedBatch& batch, const ModelConfig& config) {
  const auto num_tokens = static_cast<int64_t>(batch.ids.size());
  TORCH_CHECK_VALUE(num_tokens > 0, "batch has no tokens; must have at least 1");
  CheckIds(batch.ids, config.vocab_size, "token id");
  CheckIds(batch.labels, config.vocab_size, "label");
  CheckPositions(batch.positions, config.max_positions);
  CheckIds(batch.label_positions, num_tokens, "label position");
  TORCH_CHECK_VALUE(batch.positions.size() == batch.ids.size(), "batch has ",
                    batch.positions.size(), " positions; must have one per token: ", num_tokens);
  TORCH_CHECK_VALUE(batch.label_positions.size() == batch.labels.size(), "batch has ",
                    batch.label_positions.size(),
                    " label positions; must have one per label: ", batch.labels.size());
  const std::vector<int32_t>& begin = batch.document_begin;
  TORCH_CHECK_VALUE(begin.size() >= 2 && begin.front() == 0 && begin.back() == num_tokens &&
                        std::is_sorted(begin.begin(), begin.end()),
                    "document_begin is [", absl::StrJoin(begin, ", "),
                    "]; must rise from 0 to the number of tokens: ", num_tokens);
}

class LlamaLm final : public CausalLm {
 public:
  LlamaLm(ModelConfig config, ModelWeights weights, const ModelOptions& options)
      : config_(std::move(config)),
        weights_(std::move(weights)),
        dtype_(options.fp64 ? at::kDouble : at::kFloat),
        checkpoint_(options.activation_checkpointing),
        rope_frequencies_(RopeFrequencies(config_, dtype_)),
        interleaved_pairs_(LayoutOf(config_).interleaved_pairs),
        padding_row_(LayoutOf(config_).padding_row) {}

  const ModelConfig& config() const override { return config_; }

  absl::Status AddAdapter(const std::string& name, const LoraOptions& options,
                          uint64_t seed) override {
    LATHE_RETURN_IF_ERROR(CheckNewName(name));
    const auto base = [&](int64_t layer, Projection projection) -> const LinearGroup& {
      return weights_.layers[static_cast<size_t>(layer)].groups[static_cast<size_t>(projection)];
    };
    LATHE_ASSIGN_OR_RETURN(Adapter adapter, MakeAdapter(config_, options, seed, dtype_, base));
    adapters_.emplace(name, std::move(adapter));
    return absl::OkStatus();
  }

  absl::Status LoadAdapter(const std::string& name, const std::filesystem::path& dir) override {
    LATHE_RETURN_IF_ERROR(CheckNewName(name));
    LATHE_ASSIGN_OR_RETURN(Adapter adapter, ReadAdapter(config_, dir, dtype_));
    adapters_.emplace(name, std::move(adapter));
    return absl::OkStatus();
  }

  void RemoveAdapter(const std::string& name) override { adapters_.erase(name); }

  std::vector<AdapterTensor> AdapterTensors(const std::string& name) override {
    return GetAdapter(name).tensors;
  }

  AdapterConfig GetAdapterConfig(const std::string& name) const override {
    return GetAdapter(name).config;
  }

  std::vector<AdapterTensor> ParameterTensors() override {
    return ParameterTensorsOf(weights_, config_);
  }

  at::Tensor LossSum(const PackedBatch& batch, const std::string& adapter, bool training,
                     uint64_t dropout_seed) override {
    const at::Tensor hidden = LabelStates(batch, adapter, training, dropout_seed);
    return TokenLossSum(hidden, weights_.head, IndexTensor(batch.labels));
  }

  EvalSums Evaluate(const PackedBatch& batch, const std::string& adapter) override {
    const at::NoGradGuard no_grad;
    const at::Tensor hidden = LabelStates(batch, adapter, /*training=*/false, 0);
    const TokenLossStats stats = MeasureTokenLoss(hidden, weights_.head, IndexTensor(batch.labels));
    return {stats.loss, stats.correct, static_cast<int64_t>(batch.labels.size())};
  }

  at::Tensor Logits(const PackedBatch& batch, const std::string& adapter) override {
    const at::NoGradGuard no_grad;
    const at::Tensor hidden = FinalStates(batch, adapter, /*training=*/false, 0);
    return HeadLogits(hidden);
  }

  std::unique_ptr<KvCache> NewCache() override {
    return std::make_unique<LlamaCache>(config_.num_layers);
  }

  at::Tensor Extend(KvCache& base_cache, const std::vector<int32_t>& ids,
                    const std::string& adapter) override {
    const at::NoGradGuard no_grad;
    auto& cache = static_cast<LlamaCache&>(base_cache);  // NewCache() makes no other.
    const auto count = static_cast<int64_t>(ids.size());
    TORCH_CHECK_VALUE(count > 0, "Extend got no tokens; must have at least 1");
    CheckIds(ids, config_.vocab_size, "token id");
    TORCH_CHECK_VALUE(cache.length() + count <= config_.max_positions, "sequence has ",
                      cache.length() + count, " tokens; the model allows ", config_.max_positions);
    const RopeTable rope = Rope(at::arange(cache.length(), cache.length() + count, at::kLong));
    Pass pass = {.adapter = FindAdapter(adapter),
                 .dropout = false,
                 .dropout_seed = 0,
                 .checkpoint = false,
                 .attend = [&](int64_t layer, const at::Tensor& qkv) {
                   return AttendCached(cache, layer, qkv, rope);
                 }};
    const at::Tensor hidden = RunLayers(Embed(ids), pass).narrow(0, count - 1, 1);
    cache.Advance(count);
    return HeadLogits(hidden).squeeze(0);
  }

 private:
  absl::Status CheckNewName(const std::string& name) const {
    if (name.empty()) return absl::InvalidArgumentError("adapter name is empty");
    if (adapters_.contains(name)) {
      return absl::AlreadyExistsError(absl::StrCat("adapter '", name, "' is loaded already"));
    }
    return absl::OkStatus();
  }

  const Adapter& GetAdapter(const std::string& name) const {
    const auto found = adapters_.find(name);
    TORCH_CHECK_VALUE(found != adapters_.end(), "adapter '", name, "' is not loaded");
    return found->second;
  }

  // Null for the base alone.
  const Adapter* FindAdapter(const std::string& name) const {
    return name.empty() ? nullptr : &GetAdapter(name);
  }

  HeadShape heads() const { return {config_.num_heads, config_.num_kv_heads, config_.head_dim}; }

  RopeTable Rope(const at::Tensor& positions) const {
    return MakeRopeTable(positions, rope_frequencies_, interleaved_pairs_);
  }

  at::Tensor Embed(const std::vector<int32_t>& ids) const {
    return Embedding(weights_.embedding, IndexTensor(ids), padding_row_).to(dtype_);
  }

  // [T, D] -> [T, V], without gradient.
  at::Tensor HeadLogits(const at::Tensor& hidden) const {
    const at::Tensor normed = RmsNorm(hidden, weights_.final_norm, config_.rms_norm_eps);
    at::Tensor logits = at::empty({hidden.size(0), weights_.head.size(0)}, hidden.options());
    ProductInto(logits, normed, weights_.head);
    return logits;
  }

  // Normed hidden states at label positions, [N, D].
  at::Tensor LabelStates(const PackedBatch& batch, const std::string& adapter, bool training,
                         uint64_t dropout_seed) const {
    const at::Tensor hidden = FinalStates(batch, adapter, training, dropout_seed);
    const at::Tensor at_labels = hidden.index_select(0, IndexTensor(batch.label_positions));
    return RmsNorm(at_labels, weights_.final_norm, config_.rms_norm_eps);
  }

  // After the last layer, before the final norm, [T, D].
  at::Tensor FinalStates(const PackedBatch& batch, const std::string& adapter, bool training,
                         uint64_t dropout_seed) const {
    CheckBatch(batch, config_);
    const RopeTable rope = Rope(IndexTensor(batch.positions));
    const Pass pass = {.adapter = FindAdapter(adapter),
                       .dropout = training,
                       .dropout_seed = dropout_seed,
                       .checkpoint = checkpoint_ && training,
                       .attend = [rope, shape = heads(), begin = batch.document_begin](
                                     int64_t, const at::Tensor& qkv) {
                         return PackedAttention(qkv, rope, shape, begin);
                       }};
    return RunLayers(Embed(batch.ids), pass);
  }

  at::Tensor RunLayers(at::Tensor hidden, const Pass& pass) const {
    for (int64_t i = 0; i < config_.num_layers; ++i) {
      hidden =
          pass.checkpoint ? Checkpoint(hidden, LayerFunction(i, pass)) : RunLayer(i, hidden, pass);
    }
    return hidden;
  }

  // For backward, when the pass is over: it owns a copy.
  std::function<at::Tensor(const at::Tensor&)> LayerFunction(int64_t layer,
                                                             const Pass& pass) const {
    return [this, layer, pass](const at::Tensor& x) { return RunLayer(layer, x, pass); };
  }

  at::Tensor RunLayer(int64_t layer, const at::Tensor& hidden, const Pass& pass) const {
    const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
    const double eps = config_.rms_norm_eps;
    const auto project = [&](Projection projection, const at::Tensor& x) {
      return Project(layer, projection, x, pass);
    };
    at::Tensor qkv = project(Projection::kQkv, RmsNorm(hidden, weights.input_norm, eps));
    if (weights.query_norm.defined()) qkv = NormHeads(qkv, HeadNorms(weights), eps);
    const at::Tensor attended = hidden + project(Projection::kOutput, pass.attend(layer, qkv));
    const at::Tensor gate_up =
        project(Projection::kGateUp, RmsNorm(attended, weights.post_attention_norm, eps));
    return attended + project(Projection::kDown, SwiGlu(gate_up));
  }

  // One row per query head, then one per key head, [H + K, E].
  at::Tensor HeadNorms(const LayerWeights& weights) const {
    return at::cat({weights.query_norm.expand({config_.num_heads, -1}),
                    weights.key_norm.expand({config_.num_kv_heads, -1})});
  }

  at::Tensor Project(int64_t layer, Projection projection, const at::Tensor& x,
                     const Pass& pass) const {
    const auto index = static_cast<size_t>(projection);
    const LinearGroup& group = weights_.layers[static_cast<size_t>(layer)].groups[index];
    if (pass.adapter == nullptr) return LoraLinear(x, group, nullptr);
    LoraUpdate update = pass.adapter->updates[static_cast<size_t>(layer)][index];
    update.dropout = pass.dropout ? pass.adapter->config.dropout : 0;
    update.dropout_seed = StreamKey(
        pass.dropout_seed, static_cast<uint64_t>(layer * kNumProjections) + uint64_t{index});
    return LoraLinear(x, group, &update);
  }

  at::Tensor AttendCached(LlamaCache& cache, int64_t layer, const at::Tensor& qkv,
                          const RopeTable& rope) const {
    const HeadShape shape = heads();
    const at::Tensor all = qkv.view({qkv.size(0), -1, shape.head_dim});  // [T, H + 2 K, E]
    const int64_t num_rotated = shape.num_heads + shape.num_kv_heads;
    const at::Tensor rotated = RotateHeads(all.narrow(1, 0, num_rotated), rope);
    const LlamaCache::Layer cached =
        cache.Append(layer, rotated.narrow(1, shape.num_heads, shape.num_kv_heads),
                     all.narrow(1, num_rotated, shape.num_kv_heads));
    return AttendToCache(rotated.narrow(1, 0, shape.num_heads), cached.keys, cached.values);
  }

  const ModelConfig config_;
  const ModelWeights weights_;
  const at::ScalarType dtype_;
  const bool checkpoint_;
  const at::Tensor rope_frequencies_;  // [R / 2]
  const bool interleaved_pairs_;
  const int64_t padding_row_;
  std::map<std::string, Adapter> adapters_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CausalLm>> CausalLm::Load(const std::filesystem::path& model_dir,
                                                         const ModelOptions& options) {
  LATHE_ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(model_dir));
  LATHE_ASSIGN_OR_RETURN(ModelWeights weights, LoadWeights(model_dir, config, options));
  return std::make_unique<LlamaLm>(std::move(config), std::move(weights), options);
}

}  // namespace lathe
