#include "worker/trainer/rank_command.h"

#include <unistd.h>

#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/config/job_file.h"
#include "worker/engine/dist/communicator_gloo.h"
#include "worker/trainer/progress_printer.h"
#include "worker/trainer/torch_guard.h"
#include "worker/trainer/train_task.h"

namespace lathe {
namespace {

// What ranks other than 0 show: nothing.
class SilentObserver final : public TrainObserver {
 public:
  void OnPhase(absl::string_view /*phase*/) override {}
  void OnStep(const StepStats& /*stats*/) override {}
  void OnEvaluation(bool /*before_training*/, const Evaluation& /*evaluation*/) override {}
};

std::unique_ptr<TrainObserver> MakeObserver(int rank) {
  if (rank != 0) return std::make_unique<SilentObserver>();
  return std::make_unique<ProgressPrinter>(stdout, isatty(STDOUT_FILENO) == 1);
}

absl::StatusOr<std::unique_ptr<Communicator>> Join(const RankCommand& command) {
  if (command.world_size == 1) return MakeSoloCommunicator();
  GlooOptions options;
  options.rank = command.rank;
  options.size = command.world_size;
  options.host = command.host;
  options.own_host = command.own_host;
  options.port = command.port;
  options.attempt = command.attempt;
  options.listen_fd = UniqueFd(command.listen_fd);
  return JoinGlooGroup(std::move(options));
}

absl::Status Train(const RankCommand& command) {
  LATHE_ASSIGN_OR_RETURN(JobSpec spec, LoadJobFile(command.job_file));
  spec.model = command.base_model;
  const TrainTask task{.model_dir = command.model_dir,
                       .shard_dir = command.shard_dir,
                       .output_dir = command.output_dir,
                       .parent_dir = command.parent_dir,
                       .spec = std::move(spec),
                       .threads = command.threads,
                       .join = [&] { return Join(command); }};
  const std::unique_ptr<TrainObserver> observer = MakeObserver(command.rank);
  LATHE_ASSIGN_OR_RETURN(const TrainResult result, RunTrainTask(task, *observer, {}));
  absl::PrintF("rank %d: %s sha256 %s\n", command.rank, ResultKind(task.spec),
               result.adapter_sha256);
  return absl::OkStatus();
}

}  // namespace

absl::Status RunRankCommand(const RankCommand& command) {
  return CatchTorch([&] { return Train(command); });
}

}  // namespace lathe
