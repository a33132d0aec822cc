#include "worker/prepare/tasks.h"

#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/exit_codes.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "common/spec_proto/job_spec_proto.h"
#include "worker/data/dataset.h"
#include "worker/formats/import.h"
#include "worker/formats/model_config.h"
#include "worker/prepare/report_proto.h"

namespace lathe {
namespace {

using internal::v1::ChildMessage;
using internal::v1::Done;
using internal::v1::ParentMessage;
using internal::v1::Task;

DatasetOptions OptionsFor(const Task& task, ParentLink& link) {
  DatasetOptions options;
  options.threads = static_cast<int>(std::clamp<int64_t>(task.threads(), 1, 64));
  options.progress = [&link](absl::string_view phase, int64_t rows) {
    return link.Report(phase, rows);
  };
  return options;
}

// 0 means the default.
absl::Status SetMaxLength(int64_t max_length, JobSpec& spec) {
  const int64_t wanted = max_length == 0 ? spec.max_length : max_length;
  return SetDataField(spec, "max_length", absl::StrCat(wanted));
}

// Sets what rows may not be longer than.
absl::StatusOr<std::unique_ptr<TextModel>> LoadModel(const std::string& folder, ParentLink& link,
                                                     DatasetOptions& options) {
  LATHE_RETURN_IF_ERROR(link.Report("load", 0));
  LATHE_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  options.max_positions = config.max_positions;
  return TextModel::Load(folder);
}

absl::StatusOr<Done> Import(const internal::v1::ImportTask& task, ParentLink& link) {
  int64_t lines = 0;
  LATHE_RETURN_IF_ERROR(link.Report("load", lines));
  absl::Status cancelled;
  const auto progress = [&](const std::string& line) {
    cancelled.Update(link.Report("load", ++lines));
    cancelled.Update(link.ReportLine(line));
  };
  LATHE_ASSIGN_OR_RETURN(const ImportedModel imported,
                         ImportModel(task.source_dir(), task.output_dir(), progress));
  LATHE_RETURN_IF_ERROR(cancelled);
  // A model whose text cannot be read serves nobody: better now than at its first job.
  LATHE_ASSIGN_OR_RETURN(const auto text, TextModel::Load(task.output_dir()));
  Done done;
  done.set_architecture(imported.architecture);
  done.set_parameters(imported.parameters);
  done.set_template_sha256(text->template_sha256());
  return done;
}

absl::StatusOr<Done> Check(const internal::v1::CheckTask& task, DatasetOptions options,
                           ParentLink& link) {
  LATHE_RETURN_IF_ERROR(SetMaxLength(task.max_length(), options.spec));
  std::unique_ptr<TextModel> model;
  if (!task.model_dir().empty()) {
    LATHE_ASSIGN_OR_RETURN(model, LoadModel(task.model_dir(), link, options));
  }
  LATHE_ASSIGN_OR_RETURN(const DatasetReport report,
                         CheckDataset({task.data_path(), task.format()}, model.get(), options));
  Done done;
  *done.mutable_report() = ToProto(report);
  if (model != nullptr) done.set_template_sha256(model->template_sha256());
  return done;
}

absl::StatusOr<Done> Preview(const internal::v1::PreviewTask& task, DatasetOptions options,
                             ParentLink& link) {
  LATHE_RETURN_IF_ERROR(SetMaxLength(task.max_length(), options.spec));
  LATHE_ASSIGN_OR_RETURN(const auto model, LoadModel(task.model_dir(), link, options));
  LATHE_ASSIGN_OR_RETURN(const DatasetPreview preview, PreviewRow({task.data_path(), task.format()},
                                                                  *model, task.row(), options));
  Done done;
  *done.mutable_preview() = ToProto(preview);
  done.set_template_sha256(preview.template_sha256);
  return done;
}

absl::StatusOr<Done> Prepare(const internal::v1::PrepareTask& task, DatasetOptions options,
                             ParentLink& link) {
  LATHE_ASSIGN_OR_RETURN(options.spec, FromProto(task.spec()));
  LATHE_RETURN_IF_ERROR(ValidateForData(options.spec));
  LATHE_ASSIGN_OR_RETURN(const auto model, LoadModel(task.model_dir(), link, options));
  LATHE_RETURN_IF_ERROR(fault::Hit("prepare.rows"));
  LATHE_ASSIGN_OR_RETURN(
      const DatasetReport report,
      PrepareDataset({task.data_path(), task.format()}, *model, task.output_dir(), options));
  Done done;
  *done.mutable_report() = ToProto(report);
  done.set_template_sha256(model->template_sha256());
  return done;
}

absl::Status SendDone(ChildChannel& channel, Done done) {
  ChildMessage message;
  *message.mutable_done() = std::move(done);
  return channel.Send(message);
}

// The exit code.
int SendFailed(ChildChannel& channel, const absl::Status& status) {
  ChildMessage message;
  message.mutable_failed()->set_code(static_cast<int>(status.code()));
  message.mutable_failed()->set_message(std::string(status.message()));
  const absl::Status sent = channel.Send(message);
  if (!sent.ok()) LogError(absl::StrCat(status.message(), "; ", sent.message()));
  return absl::IsCancelled(status) ? kExitOk : ExitCodeFor(status);
}

absl::StatusOr<Done> ReceiveAndRun(ChildChannel& channel) {
  ParentMessage first;
  LATHE_RETURN_IF_ERROR(channel.Receive(first));
  if (!first.has_task()) {
    return absl::InvalidArgumentError("lathe-prepare: the first message must be a task");
  }
  ParentLink link(channel);
  fault::Pass("prepare.start");
  LATHE_RETURN_IF_ERROR(link.Report("start", 0));
  return RunTask(first.task(), link);
}

}  // namespace

absl::StatusOr<Done> RunTask(const Task& task, ParentLink& link) {
  switch (task.task_case()) {
    case Task::kImport:
      return Import(task.import(), link);
    case Task::kCheck:
      return Check(task.check(), OptionsFor(task, link), link);
    case Task::kPreview:
      return Preview(task.preview(), OptionsFor(task, link), link);
    case Task::kPrepare:
      return Prepare(task.prepare(), OptionsFor(task, link), link);
    default:
      return absl::InvalidArgumentError(absl::StrCat("lathe-prepare: got task number ",
                                                     static_cast<int>(task.task_case()),
                                                     "; does import, check, preview and prepare"));
  }
}

int RunAsChild(ChildChannel& channel) {
  absl::StatusOr<Done> done = ReceiveAndRun(channel);
  fault::Pass("prepare.result");
  absl::Status status = done.status();
  if (done.ok()) status = SendDone(channel, *std::move(done));
  fault::Pass("prepare.told");
  return status.ok() ? kExitOk : SendFailed(channel, status);
}

}  // namespace lathe
