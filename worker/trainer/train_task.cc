#include "worker/trainer/train_task.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "worker/data/shard.h"
#include "worker/engine/eval/canary.h"
#include "worker/engine/eval/held_out.h"
#include "worker/engine/model/causal_lm_tensors.h"
#include "worker/engine/train/trainer.h"
#include "worker/trainer/adapter_export.h"

namespace lathe {
namespace {

constexpr char kAdapter[] = "trained";

LoraOptions LoraOf(const LoraSpec& spec) {
  return {.rank = spec.rank,
          .alpha = spec.alpha,
          .dropout = spec.dropout,
          .rslora = spec.rslora,
          .dora = spec.dora,
          .target_modules = spec.target_modules};
}

absl::StatusOr<std::unique_ptr<CausalLm>> LoadModel(const TrainTask& task) {
  LATHE_ASSIGN_OR_RETURN(const BaseStorage storage, ParseBaseStorage(BaseStorageOf(task.spec)));
  return CausalLm::Load(
      task.model_dir,
      {.storage = storage, .activation_checkpointing = task.spec.activation_checkpointing});
}

absl::StatusOr<Shard> OpenShard(const std::filesystem::path& dir, const char* name) {
  absl::StatusOr<Shard> shard = Shard::Open(dir / name);
  if (!shard.ok()) return Annotate(shard.status(), name);
  return shard;
}

// What lives through the whole task.
struct Session {
  std::unique_ptr<CausalLm> model;
  Shard train;
  Shard validation;
};

absl::StatusOr<Session> LoadSession(const TrainTask& task) {
  LATHE_ASSIGN_OR_RETURN(Shard train, OpenShard(task.shard_dir, "train.shard"));
  if (train.num_rows() == 0) {
    return absl::InvalidArgumentError("train.shard has no rows; needs at least 1");
  }
  LATHE_ASSIGN_OR_RETURN(Shard validation, OpenShard(task.shard_dir, "validation.shard"));
  LATHE_ASSIGN_OR_RETURN(std::unique_ptr<CausalLm> model, LoadModel(task));
  LATHE_RETURN_IF_ERROR(
      model->AddAdapter(kAdapter, LoraOf(task.spec.lora), static_cast<uint64_t>(task.spec.seed)));
  return Session{std::move(model), std::move(train), std::move(validation)};
}

absl::Status CheckStop(const std::stop_token& stop) {
  return stop.stop_requested() ? absl::CancelledError("cancelled") : absl::OkStatus();
}

absl::Status Measure(Session& session, const TrainTask& task, Communicator& group, bool before,
                     TrainObserver& observer) {
  if (session.validation.num_rows() == 0) return absl::OkStatus();
  observer.OnPhase("evaluate");
  // B is zero before the first step: the base gives the same numbers with less work.
  const std::string adapter = before ? "" : kAdapter;
  LATHE_ASSIGN_OR_RETURN(const Evaluation evaluation,
                         EvaluateHeldOut(*session.model, adapter, session.validation,
                                         task.spec.micro_batch_tokens, group, observer));
  observer.OnEvaluation(before, evaluation);
  LogInfo(absl::StrFormat("held-out loss %s training: %.4f on %d tokens",
                          before ? "before" : "after", evaluation.loss, evaluation.tokens));
  return absl::OkStatus();
}

// A line for the job's log at every twentieth of the way.
void LogStep(const StepStats& stats) {
  const auto part = [&](int64_t step) { return step * 20 / stats.num_steps; };
  if (part(stats.step) == part(stats.step - 1)) return;
  LogInfo(absl::StrFormat("step %d of %d: loss %.4f, gradient norm %.3f", stats.step,
                          stats.num_steps, stats.loss, stats.grad_norm));
}

absl::Status TakeAllSteps(Trainer& trainer, const std::stop_token& stop) {
  while (trainer.num_done() < trainer.num_steps()) {
    LATHE_ASSIGN_OR_RETURN(const StepStats stats, trainer.Step(stop.stop_requested()));
    LogStep(stats);
    if (trainer.stopped()) {
      return absl::CancelledError(
          absl::StrCat("cancelled after step ", trainer.num_done(), " of ", trainer.num_steps()));
    }
  }
  return absl::OkStatus();
}

// Before anybody may use the export: a fresh process must answer with it as this one does.
absl::StatusOr<Parity> CheckParity(CausalLm& model, const TrainTask& task) {
  const AnswerRequest request{.model_dir = task.model_dir,
                              .shard_dir = task.shard_dir,
                              .adapter_dir = task.output_dir,
                              .base_storage = BaseStorageOf(task.spec),
                              .threads = task.threads};
  LATHE_ASSIGN_OR_RETURN(const std::vector<CanaryRow> canary, LoadCanary(task.shard_dir));
  const CanaryAnswers trained = AnswerCanary(model, canary, kAdapter);
  LATHE_ASSIGN_OR_RETURN(const CanaryAnswers exported, task.answer_afresh(request));
  LATHE_ASSIGN_OR_RETURN(const Parity parity, CompareAnswers(trained, exported));
  LATHE_RETURN_IF_ERROR(JudgeParity(parity));
  LogInfo(absl::StrFormat(
      "the export equals the trained model: largest logit difference %.3g, KL %.3g, %.0f %% of "
      "greedy tokens, at %d positions",
      parity.max_logit_difference, parity.kl, 100 * parity.greedy_agreement, parity.positions));
  return parity;
}

// On rank 0. A bad export leaves nothing behind.
absl::StatusOr<Parity> Verify(CausalLm& model, const TrainTask& task) {
  absl::StatusOr<Parity> parity = CheckParity(model, task);
  if (parity.ok()) return parity;
  std::error_code error;
  std::filesystem::remove_all(task.output_dir, error);
  if (error) LogWarning(absl::StrCat(task.output_dir.string(), ": remove: ", error.message()));
  return parity;
}

absl::Status CheckSameOnAllRanks(const std::string& sha256, Communicator& group) {
  LATHE_ASSIGN_OR_RETURN(const std::vector<std::string> all, group.AllGather(sha256));
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank] == sha256) continue;
    return absl::DataLossError(absl::StrCat("adapter of rank ", rank, " has sha256 ", all[rank],
                                            ", that of rank ", group.rank(), " ", sha256,
                                            "; all ranks must end with the same bits"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TrainResult> RunTrainTask(const TrainTask& task, TrainObserver& observer,
                                         const std::stop_token& stop) {
  at::set_num_threads(std::max(1, task.threads));
  observer.OnPhase("load");
  LATHE_ASSIGN_OR_RETURN(Session session, LoadSession(task));
  LATHE_RETURN_IF_ERROR(CheckStop(stop));
  observer.OnPhase("rendezvous");
  LATHE_ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> group, task.join());

  const SystemClock clock;
  Trainer trainer({*session.model, kAdapter, session.train, *group, observer, clock}, task.spec);
  LogInfo(absl::StrCat("rank ", group->rank(), " of ", group->size(), ": ",
                       trainer.num_parameters(), " trained parameters, ", session.train.num_rows(),
                       " rows, ", trainer.num_steps(), " steps"));
  LATHE_RETURN_IF_ERROR(Measure(session, task, *group, /*before=*/true, observer));
  LATHE_RETURN_IF_ERROR(TakeAllSteps(trainer, stop));
  LATHE_RETURN_IF_ERROR(Measure(session, task, *group, /*before=*/false, observer));

  observer.OnPhase("export");
  const ExportOptions options{.output_dir = group->rank() == 0 ? task.output_dir : "",
                              .base_model = task.spec.model};
  LATHE_ASSIGN_OR_RETURN(const std::string sha256,
                         ExportAdapter(*session.model, kAdapter, options));
  LATHE_RETURN_IF_ERROR(CheckSameOnAllRanks(sha256, *group));
  LogInfo(absl::StrCat("adapter sha256 ", sha256));
  TrainResult result{.adapter_sha256 = sha256, .trained_parameters = trainer.num_parameters()};
  if (group->rank() != 0) return result;
  observer.OnPhase("verify");
  LATHE_ASSIGN_OR_RETURN(result.parity, Verify(*session.model, task));
  return result;
}

}  // namespace lathe
