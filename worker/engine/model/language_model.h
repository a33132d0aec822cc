#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/engine/model/packed_batch.h"
#include "worker/formats/model_config.h"
#include "worker/formats/peft.h"

namespace at {
class Tensor;
}

// A decoder, or encoder and decoder, with a language-model head: frozen below named LoRA adapters,
// or trained itself.

namespace lathe {

// How the frozen matrices are held. A CPU computes products in 32 bits whatever it is; vectors
// (norms, biases) stay F32.
enum class BaseStorage {
  kF32,      // Views of the mapped file.
  kBf16,     // Rounded to BF16: 2 bytes per weight (ops/widened_product.h).
  kNf4,      // Linear layers but the head as 4-bit NF4 codes with doubly quantised scales, as QLoRA
             // trains over them (worker/formats/nf4.h): 0.52 bytes per weight. The rest as F32.
  kNf4Bf16,  // The same with the rest as BF16.
};

// f32, bf16, nf4, nf4+bf16: as BaseStorageOf() (common/spec/job_spec.h) names them.
// InvalidArgument: another.
absl::StatusOr<BaseStorage> ParseBaseStorage(absl::string_view name);

struct ModelOptions {
  bool fp64 = false;  // Computes in 64-bit floats: for proofs.
  BaseStorage storage = BaseStorage::kF32;
  // Number of a CUDA device that holds and computes everything; -1: the CPU. REQUIRES: the library
  // of dist/nccl_plugin.h is open.
  int cuda_device = -1;
  // Activations in 16 bits, sums of norms, softmax and loss in 32: how a GPU computes over matrices
  // in BF16. True of a CPU only for tests. Adapters stay F32.
  bool bf16_compute = false;
  // A layer keeps its input alone for backward, which computes the rest again, with the same bits:
  // about a third more time. The model and the adapter must live until backward has run.
  bool activation_checkpointing = false;
  // Every parameter requires a gradient and has memory of its own, not the mapped file's: full
  // tuning. Only with kF32.
  bool trainable = false;
};

struct LoraOptions {
  int rank = 8;
  double alpha = 16;
  double dropout = 0;
  bool rslora = false;  // Scale alpha / sqrt(rank).
  bool dora = false;    // ops/dora_linear.h.
  std::vector<std::string> target_modules = {"all-linear"};
};

// One trainable tensor, named as in the PEFT file.
struct AdapterTensor;

// Sums over one batch; add them over batches and ranks, then divide.
struct EvalSums {
  double loss = 0;      // Sum of -log p(label), natural logarithm.
  int64_t correct = 0;  // Labels that were the most likely token.
  int64_t tokens = 0;
};

// Key and value cache of one sequence. Belongs to the model that made it.
class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual int64_t length() const = 0;  // Tokens cached, of the decoder.
};

// Tokens that follow those in a cache.
struct SequencePart {
  KvCache* cache = nullptr;  // Made by the model; each once in a call.
  std::vector<int32_t> ids;  // At least one.
};

// Thread-compatible. Methods may throw c10::Error where they do not return a Status: the caller at
// the engine's door catches it once. `adapter` empty: the base alone.
class LanguageModel {
 public:
  // Maps the canonical folder's model.safetensors. InvalidArgument: a tensor is missing, extra or
  // has another shape. Unimplemented: a CUDA device with an encoder-decoder.
  static absl::StatusOr<std::unique_ptr<LanguageModel>> Load(const std::filesystem::path& model_dir,
                                                             const ModelOptions& options);
  virtual ~LanguageModel() = default;

  virtual const ModelConfig& config() const = 0;

  // A ~ U(-1/sqrt(in), 1/sqrt(in)) from `seed` alone (the same bits on every rank), B zero. PEFT's
  // init_lora_weights=True; with DoRA the magnitudes are the row norms of the base.
  virtual absl::Status AddAdapter(const std::string& name, const LoraOptions& options,
                                  uint64_t seed) = 0;
  // A PEFT folder as WriteAdapter makes it.
  virtual absl::Status LoadAdapter(const std::string& name, const std::filesystem::path& dir) = 0;
  virtual void RemoveAdapter(const std::string& name) = 0;
  // In the order of the file. Tensors are leaves that require a gradient; the caller may set their
  // data.
  virtual std::vector<AdapterTensor> AdapterTensors(const std::string& name) = 0;
  virtual AdapterConfig GetAdapterConfig(const std::string& name) const = 0;
  // The model's own parameters in canonical order (ParameterSpecs): leaves that require a gradient
  // if it was loaded `trainable`; then the caller may set their data. A tensor may hold several
  // parameters below each other and is named after the first: SplitParameters takes them apart.
  virtual std::vector<AdapterTensor> ParameterTensors() = 0;

  // 64-bit scalar: the unnormalised sum of token losses over the batch's labels, differentiable in
  // the adapter, and in the parameters if they are trainable. Logits exist only at label positions,
  // in chunks. `dropout_seed` is used if the adapter has dropout and `training`.
  virtual at::Tensor LossSum(const PackedBatch& batch, const std::string& adapter, bool training,
                             uint64_t dropout_seed) = 0;
  virtual EvalSums Evaluate(const PackedBatch& batch, const std::string& adapter) = 0;
  // [T, V] of one document, without gradient: for proofs. Of an encoder-decoder the rows are those
  // of the decoder (source_target.h).
  virtual at::Tensor Logits(const PackedBatch& batch, const std::string& adapter) = 0;

  virtual std::unique_ptr<KvCache> NewCache() = 0;
  // Appends to the cached sequences, all in one pass through the layers (of an encoder-decoder one
  // after the other); returns the logits after the last token of each of the B parts, [B, V]. The
  // first ids of an encoder-decoder's cache are the source, after which come the logits of the
  // target's first token; all others are the target's.
  virtual at::Tensor Extend(const std::vector<SequencePart>& parts, const std::string& adapter) = 0;
  // The same of one sequence, [V].
  at::Tensor Extend(KvCache& cache, const std::vector<int32_t>& ids, const std::string& adapter);
};

}  // namespace lathe
