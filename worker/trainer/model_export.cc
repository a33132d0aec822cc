#include "worker/trainer/model_export.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "worker/engine/model/language_model_tensors.h"
#include "worker/formats/model_config.h"
#include "worker/formats/safetensors.h"
#include "worker/trainer/tensor_view.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

constexpr char kWeights[] = "model.safetensors";
constexpr size_t kMaxFileBytes = size_t{64} << 20;

// `kept` owns what the views show.
std::vector<TensorView> Views(LanguageModel& model, std::vector<at::Tensor>& kept) {
  for (const AdapterTensor& entry : model.ParameterTensors()) {
    kept.push_back(entry.tensor.detach().to(at::kFloat).contiguous());
  }
  std::vector<TensorView> views;
  for (const auto& [name, tensor] : SplitParameters(ParameterSpecs(model.config()), kept)) {
    views.push_back(ViewOf(name, tensor));
  }
  return views;
}

absl::Status CopyOtherFiles(const fs::path& source, const fs::path& target) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(source, error)) {
    if (!entry.is_regular_file() || entry.path().filename() == kWeights) continue;
    LATHE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(entry.path(), kMaxFileBytes));
    LATHE_RETURN_IF_ERROR(WriteFileAtomically(target / entry.path().filename(), bytes));
  }
  return error ? ErrnoToStatus(error.value(), source.string()) : absl::OkStatus();
}

absl::Status WriteTo(const fs::path& output, const fs::path& source,
                     const std::vector<TensorView>& views, const std::string& sha256) {
  LATHE_RETURN_IF_ERROR(RequireNewOrEmptyFolder(output));
  fs::path target = fs::absolute(output).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // "out/" is "out".
  LATHE_RETURN_IF_ERROR(MakeFolder(target.parent_path()));
  LATHE_ASSIGN_OR_RETURN(TempFolder folder, TempFolder::Make(".model", target.parent_path()));
  LATHE_RETURN_IF_ERROR(CopyOtherFiles(source, folder.path()));
  LATHE_RETURN_IF_ERROR(WriteSafetensors(folder.path() / kWeights, views));
  LATHE_ASSIGN_OR_RETURN(const std::string written, Sha256OfFile(folder.path() / kWeights));
  if (written != sha256) {
    return absl::DataLossError(absl::StrCat("export: ", kWeights, " has sha256 ", written,
                                            "; the parameters in memory have ", sha256));
  }
  return folder.PublishAs(target);
}

}  // namespace

absl::StatusOr<std::string> ExportModel(LanguageModel& model, const fs::path& source_dir,
                                        const fs::path& output_dir) {
  std::vector<at::Tensor> kept;
  const std::vector<TensorView> views = Views(model, kept);
  LATHE_ASSIGN_OR_RETURN(std::string sha256, Sha256OfSafetensors(views));
  if (output_dir.empty()) return sha256;
  LATHE_RETURN_IF_ERROR(WriteTo(output_dir, source_dir, views, sha256));
  return sha256;
}

}  // namespace lathe
