#include "worker/agent/assignment_task.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/id.h"
#include "common/base/status.h"
#include "worker/agent/file_tree.h"

namespace lathe::agent {
namespace {

struct InputNames {
  std::set<std::string> required;
  std::set<std::string> optional;
};

InputNames InputsOf(const pb::Task& task) {
  switch (task.task_case()) {
    case pb::Task::kImport:
      return {{"source"}, {}};
    case pb::Task::kCheck:
      return {{"data"}, {"model"}};
    case pb::Task::kPreview:
    case pb::Task::kPrepare:
      return {{"data", "model"}, {}};
    case pb::Task::kTrain:
      return {{"model", "shards"}, {"parent", kResumeInput}};
    case pb::Task::kServe:
      return {{"model"}, {}};
    case pb::Task::TASK_NOT_SET:
      break;
  }
  return {};
}

absl::Status ValidateInputs(const pb::Assignment& assignment) {
  const InputNames names = InputsOf(assignment.task());
  for (const std::string& name : names.required) {
    if (!assignment.inputs().contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat("input '", name, "' is missing"));
    }
  }
  for (const auto& [name, tree] : assignment.inputs()) {
    if (!names.required.contains(name) && !names.optional.contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat("an input is not one of those of the task: ",
                                                     absl::StrJoin(names.required, ", ")));
    }
    LATHE_RETURN_IF_ERROR(Annotate(ValidateTree(tree), absl::StrCat("input ", name)));
    const bool one_file = name == "data";
    if (tree.files_size() < 1 || (one_file && tree.files_size() != 1)) {
      return absl::InvalidArgumentError(absl::StrCat("input ", name, " has ", tree.files_size(),
                                                     " files; must have ",
                                                     one_file ? "exactly 1" : "at least 1"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateTask(const pb::Task& task) {
  if (task.task_case() == pb::Task::TASK_NOT_SET) {
    return absl::InvalidArgumentError("the task is not one that this worker knows");
  }
  const pb::TrainTask& train = task.train();
  if (IsTrain(task) && (train.rank() < 0 || train.rank() >= train.world_size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank is ", train.rank(), "; must be in [0, ", train.world_size(), ")"));
  }
  return absl::OkStatus();
}

void FillData(const pb::Assignment& assignment, const AssignmentFolders& folders,
              std::string& data_path) {
  data_path = (folders.input("data") / assignment.inputs().at("data").files(0).path()).string();
}

}  // namespace

absl::Status ValidateAssignment(const pb::Assignment& assignment, const AgentOptions& options) {
  LATHE_RETURN_IF_ERROR(ValidateName("assignment id", assignment.id()));
  if (assignment.slots() < 0 || assignment.slots() > options.slots) {
    return absl::InvalidArgumentError(
        absl::StrCat("slots is ", assignment.slots(), "; must be in [0, ", options.slots, "]"));
  }
  LATHE_RETURN_IF_ERROR(ValidateTask(assignment.task()));
  return ValidateInputs(assignment);
}

std::string TaskKind(const pb::Task& task) {
  switch (task.task_case()) {
    case pb::Task::kImport:
      return "import";
    case pb::Task::kCheck:
      return "check";
    case pb::Task::kPreview:
      return "preview";
    case pb::Task::kPrepare:
      return "prepare";
    case pb::Task::kTrain:
      return "train";
    case pb::Task::kServe:
      return "serve";
    case pb::Task::TASK_NOT_SET:
      break;
  }
  return "unknown";
}

bool IsTrain(const pb::Task& task) { return task.task_case() == pb::Task::kTrain; }
bool IsServe(const pb::Task& task) { return task.task_case() == pb::Task::kServe; }
bool OwnsRendezvous(const pb::Task& task) { return IsTrain(task) && task.train().rank() == 0; }

std::string ProgramOf(const pb::Task& task) {
  return IsTrain(task) || IsServe(task) ? "lathe-trainer" : "lathe-prepare";
}

std::string SourceLabel(const pb::Task& task, const std::string& worker_name) {
  const std::string rank = IsTrain(task) ? absl::StrCat(" rank ", task.train().rank()) : "";
  return absl::StrCat(TaskKind(task), rank, " on ", worker_name);
}

pb::Task FillTask(const pb::Assignment& assignment, const AssignmentFolders& folders,
                  const AgentOptions& options) {
  pb::Task task = assignment.task();
  task.set_job_id(assignment.job_id());
  task.set_attempt(assignment.attempt());
  task.set_threads(int64_t{options.threads_per_slot} * std::max(1, assignment.slots()));
  const auto input = [&](const char* name) {
    return assignment.inputs().contains(name) ? folders.input(name).string() : std::string();
  };
  const std::string model = folders.input("model").string();
  switch (task.task_case()) {
    case pb::Task::kImport:
      task.mutable_import()->set_source_dir(folders.input("source").string());
      task.mutable_import()->set_output_dir(folders.output().string());
      break;
    case pb::Task::kCheck:
      FillData(assignment, folders, *task.mutable_check()->mutable_data_path());
      task.mutable_check()->set_model_dir(input("model"));
      break;
    case pb::Task::kPreview:
      FillData(assignment, folders, *task.mutable_preview()->mutable_data_path());
      task.mutable_preview()->set_model_dir(model);
      break;
    case pb::Task::kPrepare:
      FillData(assignment, folders, *task.mutable_prepare()->mutable_data_path());
      task.mutable_prepare()->set_model_dir(model);
      task.mutable_prepare()->set_output_dir(folders.output().string());
      break;
    case pb::Task::kTrain:
      task.mutable_train()->set_model_dir(model);
      task.mutable_train()->set_shard_dir(folders.input("shards").string());
      task.mutable_train()->set_output_dir(folders.output().string());
      task.mutable_train()->set_parent_dir(input("parent"));
      task.mutable_train()->set_checkpoint_dir(OwnsRendezvous(task) ? folders.checkpoints().string()
                                                                    : "");
      task.mutable_train()->set_resume_dir(input(kResumeInput));
      task.mutable_train()->set_rendezvous_fd(OwnsRendezvous(task) ? kRendezvousFd : -1);
      task.mutable_train()->set_owns_device(!options.gpus.empty());
      break;
    case pb::Task::kServe:
      task.mutable_serve()->set_model_dir(model);
      break;
    case pb::Task::TASK_NOT_SET:
      break;
  }
  return task;
}

std::vector<std::string> ChildEnvironment(const pb::Task& filled, const AssignmentFolders& folders,
                                          const AgentOptions& options,
                                          const std::vector<int>& gpus) {
  std::vector<std::string> environment = options.base_environment;
  environment.push_back(absl::StrCat("TMPDIR=", folders.work().string()));
  environment.push_back(absl::StrCat("OMP_NUM_THREADS=", filled.threads()));
  environment.push_back(absl::StrCat("MKL_NUM_THREADS=", filled.threads()));
  environment.push_back("CUDA_DEVICE_ORDER=PCI_BUS_ID");
  environment.push_back(absl::StrCat("CUDA_VISIBLE_DEVICES=", absl::StrJoin(gpus, ",")));
  return environment;
}

}  // namespace lathe::agent
