#include "worker/trainer/probe_command.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"
#include "worker/engine/generate/greedy.h"
#include "worker/engine/model/language_model.h"
#include "worker/formats/safetensors.h"
#include "worker/trainer/cuda_group.h"
#include "worker/trainer/torch_guard.h"
#include "worker/trainer/torch_process.h"

// T tokens of a prompt, V vocabulary.

namespace lathe {
namespace {

constexpr char kAdapter[] = "probed";
constexpr int64_t kMaxNewTokens = 4096;
constexpr size_t kBatch = 16;
constexpr size_t kMaxPromptsBytes = size_t{16} << 20;
constexpr size_t kMaxConfigBytes = size_t{1} << 20;

struct Prompts {
  std::vector<std::vector<int32_t>> prompts;
  int64_t max_new_tokens = 40;
};

absl::StatusOr<Prompts> ParsePrompts(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  Prompts parsed;
  try {
    parsed.prompts = json.at("prompts").get<std::vector<std::vector<int32_t>>>();
    parsed.max_new_tokens = json.at("max_new_tokens").get<int64_t>();
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompts file: ", error.what(), R"(; must be {"prompts": [[ids]], "max_new_tokens": N})"));
  }
  if (parsed.max_new_tokens < 1 || parsed.max_new_tokens > kMaxNewTokens) {
    return absl::InvalidArgumentError(absl::StrCat("prompts file: max_new_tokens is ",
                                                   parsed.max_new_tokens, "; must be in [1, ",
                                                   kMaxNewTokens, "]"));
  }
  const bool any_empty = std::any_of(parsed.prompts.begin(), parsed.prompts.end(),
                                     [](const auto& prompt) { return prompt.empty(); });
  if (parsed.prompts.empty() || any_empty) {
    return absl::InvalidArgumentError("prompts file: there is no prompt, or one without tokens");
  }
  return parsed;
}

PackedBatch OneDocument(const std::vector<int32_t>& ids) {
  PackedBatch batch;
  batch.ids = ids;
  batch.positions.resize(ids.size());
  std::iota(batch.positions.begin(), batch.positions.end(), 0);
  batch.document_begin = {0, static_cast<int32_t>(ids.size())};
  return batch;
}

// eos_token_id of generation_config.json, a number or a list, as transformers' generate() takes it.
absl::StatusOr<std::vector<int64_t>> EndIds(const std::filesystem::path& model_dir) {
  LATHE_ASSIGN_OR_RETURN(const std::string text,
                         ReadFile(model_dir / "generation_config.json", kMaxConfigBytes));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const nlohmann::json end = json.is_object() ? json.value("eos_token_id", nlohmann::json()) : json;
  std::vector<int64_t> ids;
  for (const nlohmann::json& id : end.is_array() ? end : nlohmann::json::array({end})) {
    if (id.is_null()) continue;
    if (!id.is_number_integer()) {
      return absl::InvalidArgumentError(
          "generation_config.json: eos_token_id is no token id; must be a number or a list");
    }
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

absl::Status WriteLogits(LanguageModel& model, const Prompts& prompts, bool has_adapter,
                         const std::filesystem::path& path) {
  std::vector<at::Tensor> kept;
  std::vector<TensorView> views;
  const auto add = [&](const std::string& name, const std::vector<int32_t>& prompt,
                       const std::string& adapter) {
    kept.push_back(model.Logits(OneDocument(prompt), adapter).to(at::kFloat).contiguous());
    const at::Tensor& logits_TV = kept.back();
    views.push_back(
        {.name = name,
         .dtype = Dtype::kF32,
         .shape = logits_TV.sizes().vec(),
         .bytes = {static_cast<const char*>(logits_TV.const_data_ptr()), logits_TV.nbytes()}});
  };
  for (size_t i = 0; i < prompts.prompts.size(); ++i) {
    if (has_adapter) add(absl::StrCat("prompt.", i), prompts.prompts[i], kAdapter);
    add(absl::StrCat("base.", i), prompts.prompts[i], "");
  }
  return WriteSafetensors(path, views);
}

absl::Status WriteGreedy(LanguageModel& model, const Prompts& prompts,
                         const std::vector<int64_t>& end_ids, bool has_adapter,
                         const std::filesystem::path& path) {
  nlohmann::json json = {{"base", nlohmann::json::array()}};
  if (has_adapter) json["adapter"] = nlohmann::json::array();
  const auto answer = [&](const std::vector<GreedyPrompt>& batch, const char* key,
                          const std::string& adapter) {
    for (auto& ids : GreedyIds(model, batch, end_ids, adapter)) json[key].push_back(ids);
  };
  for (size_t begin = 0; begin < prompts.prompts.size(); begin += kBatch) {
    std::vector<GreedyPrompt> batch;
    for (size_t i = begin; i < std::min(begin + kBatch, prompts.prompts.size()); ++i) {
      batch.push_back({prompts.prompts[i], prompts.max_new_tokens});
    }
    if (has_adapter) answer(batch, "adapter", kAdapter);
    answer(batch, "base", "");
  }
  return WriteFileAtomically(path, json.dump() + "\n");
}

absl::Status Probe(const ProbeCommand& command) {
  const bool cuda = command.device == "cuda";
  if (cuda) LATHE_RETURN_IF_ERROR(OpenCuda().status());
  SetUpTorchProcess(command.threads);
  LATHE_ASSIGN_OR_RETURN(const std::string text, ReadFile(command.prompts_file, kMaxPromptsBytes));
  LATHE_ASSIGN_OR_RETURN(const Prompts prompts, ParsePrompts(text));
  LATHE_ASSIGN_OR_RETURN(const std::vector<int64_t> end_ids, EndIds(command.model_dir));
  LATHE_ASSIGN_OR_RETURN(const BaseStorage storage, ParseBaseStorage(command.base_storage));
  LATHE_ASSIGN_OR_RETURN(
      const std::unique_ptr<LanguageModel> model,
      LanguageModel::Load(command.model_dir, {.storage = storage, .cuda_device = cuda ? 0 : -1}));
  const bool has_adapter = !command.adapter_dir.empty();
  if (has_adapter) LATHE_RETURN_IF_ERROR(model->LoadAdapter(kAdapter, command.adapter_dir));
  LATHE_RETURN_IF_ERROR(MakeFolder(command.output_dir));
  LATHE_RETURN_IF_ERROR(
      WriteLogits(*model, prompts, has_adapter, command.output_dir / "logits.safetensors"));
  return WriteGreedy(*model, prompts, end_ids, has_adapter, command.output_dir / "greedy.json");
}

}  // namespace

absl::Status RunProbeCommand(const ProbeCommand& command) {
  return CatchTorch([&] { return Probe(command); });
}

}  // namespace lathe
