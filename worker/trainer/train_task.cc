#include "worker/trainer/train_task.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include "common/base/human.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "worker/data/shard.h"
#include "worker/engine/eval/canary.h"
#include "worker/engine/eval/held_out.h"
#include "worker/engine/model/language_model_tensors.h"
#include "worker/engine/train/trainer.h"
#include "worker/formats/model_config.h"
#include "worker/trainer/adapter_export.h"
#include "worker/trainer/checkpointer.h"
#include "worker/trainer/cuda_group.h"
#include "worker/trainer/model_export.h"
#include "worker/trainer/torch_process.h"

namespace lathe {
namespace {

constexpr char kAdapter[] = "trained";
constexpr char kParent[] = "parent";
// Of full tuning: a parameter, its gradient and AdamW's two moments, in 32-bit floats; and its
// exact sum, a 64-bit whole number.
constexpr int64_t kBytesPerParameter = 16;
constexpr int64_t kBytesPerExactSum = 8;

LoraOptions LoraOf(const LoraSpec& spec) {
  return {.rank = spec.rank,
          .alpha = spec.alpha,
          .dropout = spec.dropout,
          .rslora = spec.rslora,
          .dora = spec.dora,
          .target_modules = spec.target_modules};
}

absl::StatusOr<Shard> OpenShard(const std::filesystem::path& dir, const char* name) {
  absl::StatusOr<Shard> shard = Shard::Open(dir / name);
  if (!shard.ok()) return Annotate(shard.status(), name);
  return shard;
}

int64_t NumParameters(const ModelConfig& config) {
  int64_t count = 0;
  for (const ParameterSpec& spec : ParameterSpecs(config)) {
    count += std::accumulate(spec.shape.begin(), spec.shape.end(), int64_t{1}, std::multiplies<>());
  }
  return count;
}

// Before gigabytes are read. Activations come on top.
absl::Status CheckMemory(const TrainTask& task) {
  LATHE_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(task.model_dir));
  const bool exact = IsExactReduction(task.spec);
  const int64_t per_parameter = kBytesPerParameter + (exact ? kBytesPerExactSum : 0);
  const int64_t needed = NumParameters(config) * per_parameter;
  if (task.machine_memory_bytes == 0 || needed <= task.machine_memory_bytes) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "method full needs ", HumanBytes(needed), " for ", NumParameters(config), " parameters (",
      per_parameter, " bytes each) and memory for activations; this machine has ",
      HumanBytes(task.machine_memory_bytes), ": use method sft or qlora, or a larger machine"));
}

// Puts the parent's tensors in the place of a new adapter's: they start from the same bytes.
absl::Status StartFromParent(LanguageModel& model, const std::filesystem::path& dir) {
  LATHE_RETURN_IF_ERROR(Annotate(model.LoadAdapter(kParent, dir), "parent_model"));
  const std::vector<AdapterTensor> parent = model.AdapterTensors(kParent);
  const std::vector<AdapterTensor> own = model.AdapterTensors(kAdapter);
  const bool same =
      model.GetAdapterConfig(kParent).Scale() == model.GetAdapterConfig(kAdapter).Scale() &&
      std::equal(parent.begin(), parent.end(), own.begin(), own.end(),
                 [](const AdapterTensor& a, const AdapterTensor& b) {
                   return a.name == b.name && a.tensor.sizes() == b.tensor.sizes();
                 });
  if (!same) {
    return absl::InvalidArgumentError(
        "parent_model: its adapter has another rank, scale or other target modules than the job");
  }
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < own.size(); ++i) own[i].tensor.copy_(parent[i].tensor);
  model.RemoveAdapter(kParent);
  return absl::OkStatus();
}

// What lives through the whole task.
struct Session {
  std::unique_ptr<LanguageModel> model;
  std::string adapter;  // Empty: every parameter is trained.
  Shard train;
  Shard validation;
};

absl::StatusOr<std::unique_ptr<LanguageModel>> LoadModel(const TrainTask& task, int cuda_device) {
  const bool full = IsFullTuning(task.spec);
  if (full) LATHE_RETURN_IF_ERROR(CheckMemory(task));
  LATHE_ASSIGN_OR_RETURN(const BaseStorage storage, ParseBaseStorage(BaseStorageOf(task.spec)));
  LATHE_ASSIGN_OR_RETURN(
      std::unique_ptr<LanguageModel> model,
      LanguageModel::Load(task.model_dir,
                          {.storage = storage,
                           .cuda_device = cuda_device,
                           .activation_checkpointing = task.spec.activation_checkpointing,
                           .trainable = full}));
  if (full) return model;
  LATHE_RETURN_IF_ERROR(
      model->AddAdapter(kAdapter, LoraOf(task.spec.lora), static_cast<uint64_t>(task.spec.seed)));
  if (!task.parent_dir.empty()) LATHE_RETURN_IF_ERROR(StartFromParent(*model, task.parent_dir));
  return model;
}

absl::StatusOr<Session> LoadSession(const TrainTask& task, int cuda_device) {
  LATHE_ASSIGN_OR_RETURN(Shard train, OpenShard(task.shard_dir, "train.shard"));
  if (train.num_rows() == 0) {
    return absl::InvalidArgumentError("train.shard has no rows; needs at least 1");
  }
  LATHE_ASSIGN_OR_RETURN(Shard validation, OpenShard(task.shard_dir, "validation.shard"));
  LATHE_ASSIGN_OR_RETURN(std::unique_ptr<LanguageModel> model, LoadModel(task, cuda_device));
  return Session{std::move(model), IsFullTuning(task.spec) ? "" : kAdapter, std::move(train),
                 std::move(validation)};
}

absl::Status CheckStop(const std::stop_token& stop) {
  return stop.stop_requested() ? absl::CancelledError("cancelled") : absl::OkStatus();
}

absl::Status Measure(Session& session, const TrainTask& task, Communicator& group, bool before,
                     TrainObserver& observer) {
  if (session.validation.num_rows() == 0) return absl::OkStatus();
  observer.OnPhase("evaluate");
  LATHE_RETURN_IF_ERROR(fault::Hit("train.evaluate"));
  // B of a new adapter is zero: the base gives the same numbers with less work.
  const std::string adapter = before && task.parent_dir.empty() ? "" : session.adapter;
  LATHE_ASSIGN_OR_RETURN(const Evaluation evaluation,
                         EvaluateHeldOut(*session.model, adapter, session.validation,
                                         task.spec.micro_batch_tokens, group, observer));
  observer.OnEvaluation(before, evaluation);
  LogInfo(absl::StrFormat("held-out loss %s training: %.4f on %d tokens",
                          before ? "before" : "after", evaluation.loss, evaluation.tokens));
  return absl::OkStatus();
}

void LogStart(const Trainer& trainer, const Session& session, const Communicator& group) {
  const int64_t all = NumParameters(session.model->config());
  LogInfo(absl::StrFormat(
      "rank %d of %d: trains %d of %d parameters (%.2f %%), %d rows, %d steps", group.rank(),
      group.size(), trainer.num_parameters(), all,
      100 * static_cast<double>(trainer.num_parameters()) / static_cast<double>(all),
      session.train.num_rows(), trainer.num_steps()));
}

// A line for the job's log at every twentieth of the way.
void LogStep(const StepStats& stats) {
  const auto part = [&](int64_t step) { return step * 20 / stats.num_steps; };
  if (part(stats.step) == part(stats.step - 1)) return;
  LogInfo(absl::StrFormat("step %d of %d: loss %.4f, gradient norm %.3f", stats.step,
                          stats.num_steps, stats.loss, stats.grad_norm));
}

// Where the checkpoint of the task was. Every rank reads its own copy.
absl::Status Resume(const TrainTask& task, const CheckpointContext& context, bool prove,
                    Trainer& trainer, Resumed& resumed) {
  LATHE_ASSIGN_OR_RETURN(const Checkpoint checkpoint, OpenCheckpoint(task.resume_dir));
  LATHE_RETURN_IF_ERROR(ResumeFrom(checkpoint, context,
                                   DescribeMachine(task.spec.device, task.threads), prove, trainer,
                                   resumed));
  LATHE_RETURN_IF_ERROR(fault::Hit("resume.restored"));
  LogInfo(absl::StrFormat("goes on after step %d of %d, from a checkpoint of attempt %d",
                          resumed.step, trainer.num_steps(), checkpoint.manifest.attempt));
  return absl::OkStatus();
}

std::unique_ptr<Checkpointer> MakeCheckpointer(const TrainTask& task, CheckpointContext context,
                                               Trainer& trainer) {
  if (task.checkpoint_dir.empty()) return nullptr;
  return std::make_unique<Checkpointer>(
      Checkpointer::Options{.writer = {.folder = task.checkpoint_dir},
                            .every_steps = task.spec.checkpoint.every_steps,
                            .attempt = task.attempt,
                            .context = std::move(context),
                            .machine = DescribeMachine(task.spec.device, task.threads),
                            .published = task.checkpoint_published},
      trainer);
}

// `checkpointer` null: nobody writes checkpoints.
absl::Status TakeAllSteps(Trainer& trainer, Checkpointer* checkpointer, const TrainTask& task,
                          TrainObserver& observer, const std::stop_token& stop) {
  // A large state is written before the next step: the others wait meanwhile.
  const auto announce = [&] { observer.OnPhase("checkpoint"); };
  while (trainer.num_done() < trainer.num_steps()) {
    LATHE_ASSIGN_OR_RETURN(const StepStats stats,
                           trainer.Step(stop.stop_requested() || task.pause.stop_requested()));
    LogStep(stats);
    if (!trainer.stopped()) {
      if (checkpointer != nullptr && checkpointer->IsDue()) announce();
      if (checkpointer != nullptr) checkpointer->AfterStep();
      continue;
    }
    // Another rank may have been asked: a checkpoint too many costs nothing.
    const bool cancelled = stop.stop_requested();
    if (checkpointer != nullptr && !cancelled) {
      announce();
      LATHE_RETURN_IF_ERROR(checkpointer->WriteNow());
    }
    return absl::CancelledError(absl::StrCat(cancelled ? "cancelled" : "stopped", " after step ",
                                             trainer.num_done(), " of ", trainer.num_steps()));
  }
  if (checkpointer == nullptr) return absl::OkStatus();
  announce();
  checkpointer->Finish();
  return absl::OkStatus();
}

// All steps, or those after a checkpoint.
absl::StatusOr<Resumed> Train(Session& session, const TrainTask& task, Communicator& group,
                              Trainer& trainer, TrainObserver& observer,
                              const std::stop_token& stop) {
  Resumed resumed;
  const bool first_rank = group.rank() == 0;
  CheckpointContext context;
  if (!task.resume_dir.empty() || (first_rank && !task.checkpoint_dir.empty())) {
    LATHE_ASSIGN_OR_RETURN(context, ContextOf(task.spec, task.model_dir, task.shard_dir));
  }
  if (task.resume_dir.empty()) {
    LATHE_RETURN_IF_ERROR(Measure(session, task, group, /*before=*/true, observer));
  } else {
    // What the model was before is known since the first attempt.
    LATHE_RETURN_IF_ERROR(MarkBadCheckpoint(Resume(task, context, first_rank, trainer, resumed)));
  }
  const std::unique_ptr<Checkpointer> checkpointer =
      first_rank ? MakeCheckpointer(task, std::move(context), trainer) : nullptr;
  LATHE_RETURN_IF_ERROR(TakeAllSteps(trainer, checkpointer.get(), task, observer, stop));
  return resumed;
}

// Before anybody may use the export: a fresh process must answer with it as this one does.
absl::StatusOr<Parity> CheckParity(Session& session, const TrainTask& task, int cuda_device) {
  const bool full = IsFullTuning(task.spec);
  const AnswerRequest request{.model_dir = full ? task.output_dir : task.model_dir,
                              .shard_dir = task.shard_dir,
                              .adapter_dir = full ? "" : task.output_dir,
                              .base_storage = BaseStorageOf(task.spec),
                              .cuda_device = cuda_device,
                              .threads = task.threads};
  LATHE_ASSIGN_OR_RETURN(const std::vector<CanaryRow> canary, LoadCanary(task.shard_dir));
  const CanaryAnswers trained = AnswerCanary(*session.model, canary, session.adapter);
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
absl::StatusOr<Parity> Verify(Session& session, const TrainTask& task, int cuda_device) {
  absl::StatusOr<Parity> parity = CheckParity(session, task, cuda_device);
  if (parity.ok()) return parity;
  std::error_code error;
  std::filesystem::remove_all(task.output_dir, error);
  if (error) LogWarning(absl::StrCat(task.output_dir.string(), ": remove: ", error.message()));
  return parity;
}

// Returns the sha256 of the file with the trained tensors. Only rank 0 keeps it.
absl::StatusOr<std::string> Export(Session& session, const TrainTask& task, int rank) {
  const std::filesystem::path output = rank == 0 ? task.output_dir : std::filesystem::path();
  if (IsFullTuning(task.spec)) return ExportModel(*session.model, task.model_dir, output);
  return ExportAdapter(*session.model, session.adapter,
                       {.output_dir = output, .base_model = task.spec.model});
}

// A GPU's number depends on who else is on its machine: there the group comes before the model.
absl::StatusOr<CudaRank> TakeSeat(const TrainTask& task, TrainObserver& observer) {
  if (task.spec.device != "cuda") return CudaRank();
  LATHE_ASSIGN_OR_RETURN(NcclPlugin* const plugin, OpenCuda());
  observer.OnPhase("rendezvous");
  LATHE_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> control, task.join());
  LATHE_ASSIGN_OR_RETURN(CudaRank seat, JoinOnCuda(*plugin, std::move(control), task.owns_device));
  LATHE_RETURN_IF_ERROR(UseKernels(*plugin, seat.device));
  return seat;
}

absl::Status CheckSameOnAllRanks(const std::string& sha256, Communicator& group) {
  LATHE_ASSIGN_OR_RETURN(const std::vector<std::string> all, group.AllGather(sha256));
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank] == sha256) continue;
    return absl::DataLossError(absl::StrCat("result of rank ", rank, " has sha256 ", all[rank],
                                            ", that of rank ", group.rank(), " ", sha256,
                                            "; all ranks must end with the same bits"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TrainResult> RunTrainTask(const TrainTask& task, TrainObserver& observer,
                                         const std::stop_token& stop) {
  LATHE_ASSIGN_OR_RETURN(CudaRank seat, TakeSeat(task, observer));
  SetUpTorchProcess(task.threads);
  observer.OnPhase("load");
  LATHE_RETURN_IF_ERROR(fault::Hit("train.load"));
  LATHE_ASSIGN_OR_RETURN(Session session, LoadSession(task, seat.device));
  LATHE_RETURN_IF_ERROR(CheckStop(stop));
  if (seat.group == nullptr) {
    observer.OnPhase("rendezvous");
    LATHE_RETURN_IF_ERROR(fault::Hit("train.join"));
    LATHE_ASSIGN_OR_RETURN(seat.group, task.join());
    LATHE_RETURN_IF_ERROR(fault::Hit("train.joined"));
  }
  const std::unique_ptr<Communicator>& group = seat.group;

  const SystemClock clock;
  Trainer trainer({*session.model, session.adapter, session.train, *group, observer, clock},
                  task.spec);
  LogStart(trainer, session, *group);
  LATHE_ASSIGN_OR_RETURN(const Resumed resumed,
                         Train(session, task, *group, trainer, observer, stop));
  LATHE_RETURN_IF_ERROR(Measure(session, task, *group, /*before=*/false, observer));

  observer.OnPhase("export");
  LATHE_RETURN_IF_ERROR(fault::Hit("train.export"));
  LATHE_ASSIGN_OR_RETURN(const std::string sha256, Export(session, task, group->rank()));
  LATHE_RETURN_IF_ERROR(fault::Hit("train.exported"));
  LATHE_RETURN_IF_ERROR(CheckSameOnAllRanks(sha256, *group));
  LogInfo(absl::StrCat(ResultKind(task.spec), " sha256 ", sha256));
  TrainResult result{.adapter_sha256 = sha256,
                     .trained_parameters = trainer.num_parameters(),
                     .ledger = trainer.ledger(),
                     .resumed_step = resumed.step,
                     .resume_verified = resumed.verified};
  if (group->rank() != 0) return result;
  observer.OnPhase("verify");
  LATHE_RETURN_IF_ERROR(fault::Hit("train.verify"));
  LATHE_ASSIGN_OR_RETURN(result.parity, Verify(session, task, seat.device));
  return result;
}

}  // namespace lathe
