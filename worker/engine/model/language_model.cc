#include "worker/engine/model/language_model.h"

#include <ATen/ATen.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/engine/model/architectures.h"

namespace lathe {

at::Tensor LanguageModel::Extend(KvCache& cache, const std::vector<int32_t>& ids,
                                 const std::string& adapter) {
  return Extend({{&cache, ids}}, adapter).squeeze(0);
}

absl::StatusOr<std::unique_ptr<LanguageModel>> LanguageModel::Load(
    const std::filesystem::path& model_dir, const ModelOptions& options) {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    return absl::FailedPreconditionError(
        "this machine's processor lacks AVX2 or FMA; the engine needs both (x86-64-v3)");
  }
  LATHE_ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(model_dir));
  if (options.cuda_device >= 0 && config.encoder_decoder) {
    return absl::UnimplementedError(
        absl::StrCat("device is 'cuda' with a ", config.architecture, "; supported for it is cpu"));
  }
  LATHE_ASSIGN_OR_RETURN(ModelWeights weights, LoadWeights(model_dir, config, options));
  const auto make = config.encoder_decoder ? MakeEncoderDecoder : MakeDecoder;
  return make(std::move(config), std::move(weights), options);
}

}  // namespace lathe
