#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/eval/canary.h"

namespace lathe {

// What a fresh process loads, all from files.
struct AnswerRequest {
  std::filesystem::path model_dir;    // Canonical folder: the base, or what was trained.
  std::filesystem::path shard_dir;    // The canary is made of its rows again.
  std::filesystem::path adapter_dir;  // PEFT folder. Empty: model_dir itself is the export.
  std::string base_storage = "f32";   // BaseStorageOf() of the job.
  int cuda_device = -1;               // ModelOptions::cuda_device.
  int threads = 1;                    // As many as the other side has: the bits depend on it.
};

// The canary of a shard folder: held-out rows or, without any, rows to train on.
absl::StatusOr<std::vector<CanaryRow>> LoadCanary(const std::filesystem::path& shard_dir);

// `lathe-trainer answer`: loads the export as anybody would and answers the canary. Not for people.
struct AnswerCommand {
  AnswerRequest request;
  std::filesystem::path output;  // safetensors: logits F32 [P, V], greedy I32.
};
// DataLoss: the model folder's chat template is not the one that the rows were made with.
absl::Status RunAnswerCommand(const AnswerCommand& command);

// Runs it in a process of its own and reads what it wrote. Main thread only (child_processes.h).
// DataLoss: the process failed or wrote something else; its own line is on standard error.
absl::StatusOr<CanaryAnswers> AnswerAfresh(const AnswerRequest& request,
                                           const std::string& program = "/proc/self/exe");

}  // namespace lathe
