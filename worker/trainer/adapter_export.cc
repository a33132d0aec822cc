#include "worker/trainer/adapter_export.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "worker/engine/model/language_model_tensors.h"
#include "worker/formats/peft.h"
#include "worker/trainer/tensor_view.h"

namespace lathe {
namespace {

constexpr char kReadBack[] = "read back from the export";

// `kept` owns what the views show.
std::vector<TensorView> Views(LanguageModel& model, const std::string& name,
                              std::vector<at::Tensor>& kept) {
  std::vector<TensorView> views;
  for (const AdapterTensor& entry : model.AdapterTensors(name)) {
    kept.push_back(entry.tensor.detach().to(at::kCPU, at::kFloat).contiguous());
    views.push_back(ViewOf(entry.name, kept.back()));
  }
  return views;
}

absl::Status Compare(LanguageModel& model, const std::string& name) {
  const std::vector<AdapterTensor> live = model.AdapterTensors(name);
  const std::vector<AdapterTensor> read = model.AdapterTensors(kReadBack);
  if (live.size() != read.size()) {
    return absl::DataLossError(
        absl::StrCat("export has ", read.size(), " tensors; the model has ", live.size()));
  }
  for (size_t i = 0; i < live.size(); ++i) {
    const at::Tensor expected = live[i].tensor.detach().to(at::kFloat);
    if (live[i].name == read[i].name &&
        at::equal(expected, read[i].tensor.detach().to(at::kFloat))) {
      continue;
    }
    return absl::DataLossError(
        absl::StrCat("export: tensor ", live[i].name, " differs from the one in memory"));
  }
  return absl::OkStatus();
}

absl::Status Verify(LanguageModel& model, const std::string& name,
                    const std::filesystem::path& dir) {
  LATHE_RETURN_IF_ERROR(model.LoadAdapter(kReadBack, dir));
  const absl::Status status = Compare(model, name);
  model.RemoveAdapter(kReadBack);
  return status;
}

absl::StatusOr<std::string> WriteTo(LanguageModel& model, const std::string& name,
                                    const std::filesystem::path& dir,
                                    const std::string& base_model) {
  AdapterConfig config = model.GetAdapterConfig(name);
  config.base_model = base_model;
  std::vector<at::Tensor> kept;
  LATHE_RETURN_IF_ERROR(WriteAdapter(dir, config, Views(model, name, kept)));
  LATHE_RETURN_IF_ERROR(Verify(model, name, dir));
  return Sha256OfFile(dir / "adapter_model.safetensors");
}

}  // namespace

absl::StatusOr<std::string> ExportAdapter(LanguageModel& model, const std::string& name,
                                          const ExportOptions& options) {
  if (!options.output_dir.empty()) {
    return WriteTo(model, name, options.output_dir, options.base_model);
  }
  LATHE_ASSIGN_OR_RETURN(const TempFolder folder, TempFolder::Make("lathe-adapter"));
  return WriteTo(model, name, folder.path() / "adapter", options.base_model);
}

}  // namespace lathe
