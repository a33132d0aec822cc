#include "worker/trainer/answer_command.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/exit_codes.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/data/shard.h"
#include "worker/engine/model/language_model.h"
#include "worker/formats/safetensors.h"
#include "worker/text/text_model.h"
#include "worker/trainer/child_processes.h"
#include "worker/trainer/cuda_group.h"
#include "worker/trainer/torch_guard.h"
#include "worker/trainer/torch_process.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

constexpr char kAdapter[] = "exported";

// Rows and the template that they were rendered with.
struct Canary {
  std::vector<CanaryRow> rows;
  std::string template_sha256;
};

absl::StatusOr<Canary> ReadCanary(const fs::path& shard_dir) {
  LATHE_ASSIGN_OR_RETURN(const Shard validation, Shard::Open(shard_dir / "validation.shard"));
  if (validation.num_rows() > 0)
    return Canary{CanaryRows(validation), validation.template_sha256()};
  LATHE_ASSIGN_OR_RETURN(const Shard train, Shard::Open(shard_dir / "train.shard"));
  return Canary{CanaryRows(train), train.template_sha256()};
}

// With another template the adapter would answer prompts that it was not trained on.
absl::Status CheckTemplate(const fs::path& model_dir, const Canary& canary) {
  LATHE_ASSIGN_OR_RETURN(const std::unique_ptr<TextModel> text, TextModel::Load(model_dir));
  if (text->template_sha256() == canary.template_sha256) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("parity: the model's chat template has sha256 ",
                                          text->template_sha256(), "; the rows were made with ",
                                          canary.template_sha256));
}

template <class T>
absl::string_view BytesOf(const T* data, size_t count) {
  return {reinterpret_cast<const char*>(data), count * sizeof(T)};
}

absl::Status WriteAnswers(const CanaryAnswers& answers, const fs::path& path) {
  const at::Tensor logits = answers.logits.contiguous();
  const auto num_greedy = static_cast<int64_t>(answers.greedy.size());
  return WriteSafetensors(
      path,
      {{.name = "logits",
        .dtype = Dtype::kF32,
        .shape = logits.sizes().vec(),
        .bytes = BytesOf(logits.const_data_ptr<float>(), static_cast<size_t>(logits.numel()))},
       {.name = "greedy",
        .dtype = Dtype::kI32,
        .shape = {num_greedy},
        .bytes = BytesOf(answers.greedy.data(), answers.greedy.size())}});
}

absl::StatusOr<CanaryAnswers> ReadAnswers(const fs::path& path) {
  LATHE_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  const TensorView* logits = file.Find("logits");
  const TensorView* greedy = file.Find("greedy");
  if (logits == nullptr || greedy == nullptr || logits->dtype != Dtype::kF32 ||
      greedy->dtype != Dtype::kI32 || logits->shape.size() != 2) {
    return absl::DataLossError("parity: the answers are not logits F32 [P, V] and greedy I32");
  }
  CanaryAnswers answers;
  answers.logits = at::empty(logits->shape, at::kFloat);
  std::copy(logits->bytes.begin(), logits->bytes.end(),
            static_cast<char*>(answers.logits.mutable_data_ptr()));
  answers.greedy.resize(greedy->bytes.size() / sizeof(int32_t));
  std::copy(greedy->bytes.begin(), greedy->bytes.end(),
            reinterpret_cast<char*>(answers.greedy.data()));
  return answers;
}

absl::Status Answer(const AnswerCommand& command) {
  const AnswerRequest& request = command.request;
  if (request.cuda_device >= 0) {
    LATHE_ASSIGN_OR_RETURN(NcclPlugin* const plugin, OpenCuda());
    LATHE_RETURN_IF_ERROR(UseKernels(*plugin, request.cuda_device));
  }
  SetUpTorchProcess(request.threads);
  LATHE_ASSIGN_OR_RETURN(const Canary canary, ReadCanary(request.shard_dir));
  LATHE_RETURN_IF_ERROR(CheckTemplate(request.model_dir, canary));
  LATHE_ASSIGN_OR_RETURN(const BaseStorage storage, ParseBaseStorage(request.base_storage));
  LATHE_ASSIGN_OR_RETURN(
      const std::unique_ptr<LanguageModel> model,
      LanguageModel::Load(request.model_dir,
                          {.storage = storage, .cuda_device = request.cuda_device}));
  if (request.adapter_dir.empty()) {
    return WriteAnswers(AnswerCanary(*model, canary.rows, ""), command.output);
  }
  LATHE_RETURN_IF_ERROR(model->LoadAdapter(kAdapter, request.adapter_dir));
  return WriteAnswers(AnswerCanary(*model, canary.rows, kAdapter), command.output);
}

std::vector<std::string> Arguments(const AnswerRequest& request, const fs::path& output) {
  std::vector<std::string> arguments = {"answer",
                                        absl::StrCat("--model=", request.model_dir.string()),
                                        absl::StrCat("--shards=", request.shard_dir.string()),
                                        absl::StrCat("--base-storage=", request.base_storage),
                                        absl::StrCat("--cuda-device=", request.cuda_device),
                                        absl::StrCat("--threads=", request.threads),
                                        absl::StrCat("--out=", output.string())};
  if (!request.adapter_dir.empty()) {
    arguments.push_back(absl::StrCat("--adapter=", request.adapter_dir.string()));
  }
  return arguments;
}

}  // namespace

absl::StatusOr<std::vector<CanaryRow>> LoadCanary(const fs::path& shard_dir) {
  LATHE_ASSIGN_OR_RETURN(Canary canary, ReadCanary(shard_dir));
  return std::move(canary.rows);
}

absl::Status RunAnswerCommand(const AnswerCommand& command) {
  return CatchTorch([&] { return Answer(command); });
}

absl::StatusOr<CanaryAnswers> AnswerAfresh(const AnswerRequest& request,
                                           const std::string& program) {
  LATHE_ASSIGN_OR_RETURN(const TempFolder folder, TempFolder::Make("lathe-parity"));
  const fs::path output = folder.path() / "answers.safetensors";
  ChildProcesses fresh(program);
  LATHE_RETURN_IF_ERROR(fresh.Start(Arguments(request, output), /*inherited_fd=*/-1));
  LATHE_ASSIGN_OR_RETURN(const std::vector<int> statuses, fresh.WaitAll(absl::ZeroDuration()));
  if (statuses[0] != 0) {
    return absl::DataLossError(
        absl::StrCat("parity: the process that loads the export ", DescribeExit(statuses[0])));
  }
  return ReadAnswers(output);
}

}  // namespace lathe
