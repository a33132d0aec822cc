#include "worker/trainer/run_command.h"

#include <algorithm>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/exit_codes.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/config/job_file.h"
#include "common/spec/given.h"
#include "worker/data/dataset.h"
#include "worker/engine/dist/communicator_gloo.h"
#include "worker/formats/import.h"
#include "worker/formats/model_config.h"
#include "worker/formats/peft.h"
#include "worker/text/text_model.h"
#include "worker/trainer/child_processes.h"
#include "worker/trainer/cuda_group.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

// How long the ranks that are left may take to notice that one is gone.
constexpr absl::Duration kGrace = absl::Seconds(10);
constexpr size_t kMaxConfigBytes = size_t{1} << 20;

// One run: where its files are and how its ranks are started.
struct Run {
  RunPlan plan;
  fs::path work;  // Removed at the end.
  fs::path output;
  int threads = 1;

  fs::path model_dir() const { return work / "model"; }
  fs::path shard_dir() const { return work / "shards"; }
  fs::path job_file() const { return work / "job.yaml"; }
};

void Say(const std::string& line) {
  absl::PrintF("%s\n", line);
  std::fflush(stdout);
}

absl::Status Import(const Run& run) {
  Say(absl::StrCat("import ", run.plan.model.string()));
  return ImportModel(run.plan.model, run.model_dir(), [](const std::string& line) { Say(line); })
      .status();
}

absl::Status Prepare(const Run& run) {
  Say(absl::StrCat("prepare ", run.plan.dataset.string()));
  LATHE_ASSIGN_OR_RETURN(const std::unique_ptr<TextModel> text, TextModel::Load(run.model_dir()));
  LATHE_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(run.model_dir()));
  DatasetOptions options;
  options.spec = run.plan.spec;
  options.max_positions = config.max_positions;
  LATHE_ASSIGN_OR_RETURN(
      const DatasetReport report,
      PrepareDataset({.path = run.plan.dataset, .format = ""}, *text, run.shard_dir(), options));
  Say(absl::StrCat("  ", report.training_rows, " rows to train on, ", report.validation_rows,
                   " held out, ", report.refused_rows, " refused; ", report.trained_tokens, " of ",
                   report.total_tokens, " tokens trained"));
  return absl::OkStatus();
}

std::vector<std::string> RankArguments(const Run& run, int rank, int64_t attempt,
                                       const BoundSocket& rendezvous) {
  const auto arg = [](const char* name, const auto& value) {
    return absl::StrCat("--", name, "=", value);
  };
  std::vector<std::string> arguments = {"rank",
                                        arg("job", run.job_file().string()),
                                        arg("base-model", run.plan.model.string()),
                                        arg("model", run.model_dir().string()),
                                        arg("shards", run.shard_dir().string()),
                                        arg("out", run.output.string()),
                                        arg("rank", rank),
                                        arg("world-size", run.plan.spec.ranks),
                                        arg("port", rendezvous.port),
                                        arg("listen-fd", rank == 0 ? rendezvous.fd.get() : -1),
                                        arg("attempt", attempt),
                                        arg("threads", run.threads)};
  if (!run.plan.parent.empty()) arguments.push_back(arg("parent", run.plan.parent.string()));
  return arguments;
}

// The one to blame: a rank that lost its peers is a witness.
size_t FirstCulprit(const std::vector<int>& statuses) {
  size_t witness = statuses.size();
  for (size_t rank = 0; rank < statuses.size(); ++rank) {
    const FailureCause cause = CauseOfExit(statuses[rank]);
    if (cause == FailureCause::kNone) continue;
    if (cause != FailureCause::kPeerLost) return rank;
    witness = std::min(witness, rank);
  }
  return witness;
}

absl::Status ToStatus(const std::vector<int>& statuses) {
  const size_t rank = FirstCulprit(statuses);
  if (rank == statuses.size()) return absl::OkStatus();
  const std::string message = absl::StrCat("rank ", rank, ": ", DescribeExit(statuses[rank]));
  switch (CauseOfExit(statuses[rank])) {
    case FailureCause::kUser:
      return absl::FailedPreconditionError(message);
    case FailureCause::kBug:
      return absl::InternalError(message);
    default:
      return absl::UnavailableError(message);
  }
}

absl::Status TrainOnce(const Run& run, int64_t attempt) {
  LATHE_ASSIGN_OR_RETURN(BoundSocket rendezvous, BindLoopback());
  ChildProcesses ranks;
  for (int rank = 0; rank < run.plan.spec.ranks; ++rank) {
    LATHE_RETURN_IF_ERROR(ranks.Start(RankArguments(run, rank, attempt, rendezvous),
                                      rank == 0 ? rendezvous.fd.get() : -1));
  }
  rendezvous.fd.Reset();
  LATHE_ASSIGN_OR_RETURN(const std::vector<int> statuses, ranks.WaitAll(kGrace));
  return ToStatus(statuses);
}

absl::Status Train(const Run& run) {
  const int max_attempts = 1 + run.plan.spec.max_restarts;
  for (int attempt = 1;; ++attempt) {
    const absl::Status status = TrainOnce(run, attempt);
    if (status.code() != absl::StatusCode::kUnavailable || attempt == max_attempts) return status;
    LogWarning(absl::StrCat("attempt ", attempt, " of ", max_attempts,
                            " failed: ", status.message(), "; starts again"));
  }
}

// Without the service nobody knows over which weights an adapter was made, only its own word.
absl::Status TakeOverParent(RunPlan& plan) {
  if (plan.parent.empty()) return absl::OkStatus();
  const fs::path file = plan.parent / "adapter_config.json";
  std::error_code error;
  if (!fs::exists(file, error)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "parent_model is '", plan.parent.string(),
        "', which has no adapter_config.json; must be a PEFT folder: to tune a whole model "
        "further name it as model"));
  }
  LATHE_ASSIGN_OR_RETURN(const std::string text, ReadFile(file, kMaxConfigBytes));
  auto parent = ParseAdapterConfig(text);
  if (!parent.ok()) return Annotate(parent.status(), "parent_model");
  if (parent->base_model != plan.model.string()) {
    LogWarning(absl::StrCat("parent_model was made over '", parent->base_model.substr(0, 200),
                            "', this job's model is '", plan.model.string(),
                            "': their weights must be the same"));
  }
  const LoraSpec lora{.rank = static_cast<int>(std::min<int64_t>(parent->rank, INT32_MAX)),
                      .alpha = parent->alpha,
                      .rslora = parent->rslora,
                      .dora = parent->dora,
                      .target_modules = parent->target_modules,
                      .dropout = parent->dropout};
  LATHE_RETURN_IF_ERROR(TakeOverLora(lora, plan.spec));
  return Validate(plan.spec);
}

int ThreadsPerRank(const RunCommand& command, int ranks) {
  if (command.threads > 0) return command.threads;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / ranks);
}

absl::Status CheckOutput(const fs::path& output) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(output, error))) return absl::OkStatus();
  if (fs::is_directory(output, error) && fs::is_empty(output, error)) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(
      output.string(), " is there already; give another folder with --out, or remove it"));
}

}  // namespace

absl::Status RunRunCommand(const RunCommand& command) {
  LATHE_ASSIGN_OR_RETURN(JobSpec spec, LoadJobFile(command.job_file));
  LATHE_ASSIGN_OR_RETURN(RunPlan plan, PlanRun(std::move(spec), command.ranks));
  LATHE_RETURN_IF_ERROR(CheckDevice(plan.spec));
  LATHE_RETURN_IF_ERROR(TakeOverParent(plan));
  const fs::path output =
      command.output_dir.empty() ? fs::path(plan.spec.name) : command.output_dir;
  // Now, not after the training.
  LATHE_RETURN_IF_ERROR(CheckOutput(output));
  LATHE_ASSIGN_OR_RETURN(const TempFolder work, TempFolder::Make("lathe-run"));
  const int threads = ThreadsPerRank(command, plan.spec.ranks);
  const Run run{.plan = std::move(plan), .work = work.path(), .output = output, .threads = threads};
  LATHE_RETURN_IF_ERROR(WriteFileAtomically(run.job_file(), JobFileText(run.plan.spec)));
  LATHE_RETURN_IF_ERROR(Import(run));
  LATHE_RETURN_IF_ERROR(Prepare(run));
  LATHE_RETURN_IF_ERROR(Train(run));
  Say(absl::StrCat(ResultKind(run.plan.spec), ": ", output.string()));
  return absl::OkStatus();
}

}  // namespace lathe
