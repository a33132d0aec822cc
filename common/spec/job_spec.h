#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"

// What a user asks for: a training job. Plain structs with in-class defaults. The list of fields
// with names and help is in field.h; it alone drives YAML, flags, the defaults table and the proto
// round trip.

namespace lathe {

struct LoraSpec {
  int rank = 8;         // Rank of the update matrices, [1, 256]. Adapter memory grows linearly.
  double alpha = 16;    // The update is scaled by alpha / rank. (0, 4096].
  bool rslora = false;  // Scaled by alpha / sqrt(rank) instead (Kalajdzievski, 2023).
  bool dora = false;    // Also trains the length of every output row (Liu et al., 2024).
  std::vector<std::string> target_modules = {"all-linear"};  // Or names such as q_proj, down_proj.
  double dropout = 0;  // [0, 1): on the input of A, in training only.
};

struct CheckpointSpec {
  int every_steps = 100;  // Optimizer steps between two checkpoints, [1, 1000000].
};

struct JobSpec {
  std::string name;     // Name of the resulting model. Empty: <dataset>-<model>-<short id>.
  std::string model;    // Name of an imported model.
  std::string dataset;  // Name of an uploaded data set.
  // sft: LoRA | qlora: the same over a base in 4 bits | full: every parameter is trained.
  std::string method = "sft";
  std::string device = "cpu";  // cpu | cuda: what computes.
  // f32 | bf16: how the frozen matrices are held. Empty: f32 on the CPU, bf16 on a GPU, which then
  // computes in BF16 too.
  std::string base_dtype;
  LoraSpec lora;             // Of sft and qlora.
  std::string parent_model;  // Adapter over `model` to go on from. Empty: a new one.
  int max_length = 2048;     // Tokens a row may have, [16, 131072].
  std::string on_too_long = "truncate_answer";  // truncate_answer | drop | error.
  double validation_fraction = 0.1;             // [0, 0.5]. Ignored when rows carry "split".
  int64_t seed = 1;
  int epochs = 3;      // [1, 1000].
  int batch_size = 8;  // Rows per optimizer step over all ranks, [1, 65536].
  int micro_batch_tokens =
      0;  // Token budget of one packed micro-batch, [16, 1048576]; 0: chosen by memory.
  bool activation_checkpointing = false;  // Layers are computed again in backward: less memory.
  double learning_rate = 0;               // Peak, (0, 1]; 0: 3e-4 for LoRA, 2e-5 for full.
  std::string schedule = "cosine";        // cosine | linear | constant.
  double warmup_ratio = 0.03;             // Share of all steps, [0, 1].
  double max_grad_norm = 1.0;             // 0: no clipping.
  double weight_decay = 0;                // [0, 1].
  double beta1 = 0.9;                     // [0, 1).
  double beta2 = 0.999;                   // [0, 1).
  double eps = 1e-8;                      // (0, 1].
  int ranks = 1;                          // Processes that train data-parallel, [1, 4096].
  // With fewer, down to this, the training starts or goes on while there are not enough slots, and
  // takes more at a checkpoint when there are. [1, ranks]; 0: always `ranks`.
  int min_ranks = 0;
  // fast | exact: how gradients are added up. exact: as whole numbers, so that any number of ranks
  // gives the same bits, for 8 bytes per trained parameter. Empty: exact for LoRA on the CPU, else
  // fast.
  std::string reduction;
  CheckpointSpec checkpoint;
  int max_restarts = 5;  // Attempts after the first, [0, 100].
  int priority = 0;      // Of waiting jobs the highest is placed first, [-100, 100].

  // Keys that the user has written, if only with the default's value (given.h). Not a field.
  std::set<std::string> given = {};
};

inline bool IsFullTuning(const JobSpec& spec) { return spec.method == "full"; }
inline bool IsExactReduction(const JobSpec& spec) { return spec.reduction == "exact"; }
// What the training makes: "model" or "adapter".
inline const char* ResultKind(const JobSpec& spec) {
  return IsFullTuning(spec) ? "model" : "adapter";
}

// Range and vocabulary of every field. InvalidArgument: "lora.rank is 0; must be in [1, 256]".
absl::Status Validate(const JobSpec& spec);

// All zero and empty "chosen for you" values filled in: learning_rate, micro_batch_tokens, name,
// base_dtype, reduction.
// What comes back is what is stored and what runs. Pure. `unique` ends a generated name.
JobSpec Resolve(JobSpec spec, const std::string& unique);

// How the job's base is held while it trains, is verified and is served: f32, bf16, nf4 (linear
// layers in 4 bits, the rest f32), nf4+bf16.
std::string BaseStorageOf(const JobSpec& spec);

}  // namespace lathe
