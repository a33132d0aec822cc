#include "coordinator/service/coordinator.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "common/spec/given.h"
#include "coordinator/service/convert.h"

// Jobs, names, and what follows from a decision. Agents, errands and chats: coordinator_fleet.cc.

namespace lathe {
namespace {

// Of bytes that nothing names, after their last use.
constexpr absl::Duration kUnnamedBlobLife = absl::Hours(24);

absl::Status Ending() { return absl::UnavailableError("the coordinator is ending; try again"); }

}  // namespace

Coordinator::Coordinator(CoordinatorOptions options, Store& store, BlobStore& blobs, Hub& hub,
                         Chats& chats, Probe& probe, const Clock& clock,
                         std::function<void(const absl::Status&)> on_fatal)
    : options_(options),
      store_(store),
      blobs_(blobs),
      hub_(hub),
      chats_(chats),
      probe_(probe),
      clock_(clock),
      on_fatal_(std::move(on_fatal)),
      core_(options_.core),
      deployments_(options_.chat_idle_timeout),
      loop_(
          clock, [this] { return NextDeadline(); }, [this] { OnDeadline(); }) {}

Coordinator::~Coordinator() { Stop(); }

void Coordinator::Stop() { loop_.Stop(); }

absl::Status Coordinator::Start() {
  return loop_.Call(
      [this]() -> absl::Status {
        LATHE_ASSIGN_OR_RETURN(std::vector<Job> jobs, store_.UnfinishedJobs());
        LATHE_ASSIGN_OR_RETURN(shards_, store_.AllShards());
        LATHE_ASSIGN_OR_RETURN(const auto counts, store_.CountJobs());
        probe_.CountJobs(counts);
        for (const Job& job : jobs) {
          states_[job.id] = job.state;
          // Counters go on from what is stored.
          LATHE_ASSIGN_OR_RETURN(const auto steps, store_.Steps(job.id, 0, 0, 1 << 24));
          for (const StepRecord& step : steps) {
            v1::StepStats stats;
            if (stats.ParseFromString(step.payload)) probe_.OnStep(job.id, stats);
            last_step_[job.id] = {step.attempt, step.step};
          }
        }
        probe_.OnBlobBytes(blobs_.total_bytes());
        Effects effects;
        fault::Pass("coordinator.restore");
        core_.Restore(std::move(jobs), shards_, clock_.Now(), effects);
        Apply(effects);
        RemoveUnusedBlobs();
        return absl::OkStatus();
      },
      Ending());
}

absl::Time Coordinator::NextDeadline() const {
  return std::min(core_.NextDeadline(), deployments_.NextDeadline());
}

void Coordinator::OnDeadline() {
  const absl::Time now = clock_.Now();
  Effects effects;
  core_.Tick(now, effects);
  for (const std::string& errand : deployments_.TakeIdle(now)) {
    core_.CancelErrand(errand, now, effects);
    errands_.erase(errand);
  }
  Apply(effects);
}

void Coordinator::Apply(const Effects& effects) {
  for (const JobChange& change : effects.changes) {
    if (change.shards.has_value()) shards_[change.job.shard_key] = *change.shards;
  }
  if (const absl::Status status = store_.Commit(effects.changes); !status.ok()) {
    on_fatal_(Annotate(status, "a decision could not be stored"));
    return;
  }
  if (!effects.changes.empty()) fault::Pass("coordinator.decided");
  for (const JobChange& change : effects.changes) {
    Publish(change);
    if (!change.dropped.empty()) DropBlobsOnLoop(change.dropped);
  }
  // Before the order that makes the processes print their stacks: these come after it in the log.
  for (const HangReport& hang : effects.hangs) options_.keep_hang(hang);
  for (const Command& command : effects.commands) Send(command);
  if (!effects.commands.empty()) fault::Pass("coordinator.commanded");
  for (const ErrandEnd& end : effects.errands) OnErrandEnd(end);
  probe_.OnFleet(core_.fleet());
}

void Coordinator::Publish(const JobChange& change) {
  const Job& job = change.job;
  const auto known = states_.find(job.id);
  probe_.OnJobChange(known == states_.end() ? nullptr : &known->second, job);
  for (const JobEvent& event : change.events) {
    LogInfo(absl::StrCat(job.id.value(), " ", JobStateName(event.state), ": ", event.message));
  }
  if (IsFinal(job.state)) {
    states_.erase(job.id);
    last_step_.erase(job.id);
    probe_.OnJobEnd(job.id);
  } else {
    states_[job.id] = job.state;
  }
  hub_.Notify(job.id.value());
}

absl::StatusOr<Job> Coordinator::CreateJob(const std::string& request_id,
                                           const std::string& request_sha256, const JobSpec& spec) {
  return loop_.Call([&] { return CreateJobOnLoop(request_id, request_sha256, spec); },
                    absl::StatusOr<Job>(Ending()));
}

absl::StatusOr<Job> Coordinator::CreateJobOnLoop(const std::string& request_id,
                                                 const std::string& request_sha256, JobSpec spec) {
  if (request_id.empty() || request_id.size() > 128) {
    return absl::InvalidArgumentError(
        absl::StrCat("request_id has ", request_id.size(), " characters; must have 1 to 128"));
  }
  Job job;
  LATHE_ASSIGN_OR_RETURN(auto earlier, store_.FindJobByRequest(job.project, request_id));
  if (earlier.has_value()) {
    if (earlier->request_sha256 == request_sha256) return *std::move(earlier);
    return absl::AlreadyExistsError(absl::StrCat("request_id '", request_id, "': was used for ",
                                                 earlier->id.value(),
                                                 " with another spec; make a new one per job"));
  }
  LATHE_RETURN_IF_ERROR(Validate(spec));
  LATHE_RETURN_IF_ERROR(CheckGiven(spec));
  job.id = JobId::New();
  job.spec = Resolve(std::move(spec), job.id.value().substr(job.id.value().size() - 6));
  LATHE_RETURN_IF_ERROR(Validate(job.spec));
  job.request_id = request_id;
  job.request_sha256 = request_sha256;
  job.create_time = clock_.Now();
  LATHE_RETURN_IF_ERROR(ResolveNames(job));
  LATHE_RETURN_IF_ERROR(ResolveParent(job));
  LATHE_RETURN_IF_ERROR(core_.CanAdd(job));
  job.shard_key = ShardKey(job);
  job.last_sequence = 1;
  const JobEvent created{.sequence = 1,
                         .time = job.create_time,
                         .state = job.state,
                         .stage = job.stage,
                         .attempt = job.attempt,
                         .message = "created"};
  LATHE_RETURN_IF_ERROR(store_.CreateJob(job, created));
  Publish({job, {created}, {}, {}});
  Effects effects;
  core_.AddJob(job, job.create_time, effects);
  Apply(effects);
  return store_.GetJob(job.id);
}

absl::Status Coordinator::ResolveNames(Job& job) {
  LATHE_ASSIGN_OR_RETURN(const Dataset dataset, store_.GetDataset(job.spec.dataset));
  LATHE_ASSIGN_OR_RETURN(const Model model, store_.GetModel(job.spec.model));
  if (model.kind != ModelKind::kBase) {
    return absl::InvalidArgumentError(absl::StrCat("model is '", model.name,
                                                   "', an adapter; must be a base model, such as '",
                                                   model.base_model, "'"));
  }
  if (store_.GetModel(job.spec.name).ok()) {
    return absl::AlreadyExistsError(absl::StrCat(
        "name is '", job.spec.name, "'; a model of that name exists: choose another name"));
  }
  job.dataset_blob = dataset.blob;
  job.dataset_format = dataset.format;
  job.base = {.architecture = model.architecture,
              .parameters = model.parameters,
              .template_sha256 = model.template_sha256,
              .files = model.files};
  return absl::OkStatus();
}

absl::Status Coordinator::ResolveParent(Job& job) {
  const std::string& name = job.spec.parent_model;
  if (name.empty()) return absl::OkStatus();
  auto parent = store_.GetModel(name);
  if (!parent.ok()) return Annotate(parent.status(), "parent_model");
  if (parent->kind != ModelKind::kAdapter) {
    return absl::InvalidArgumentError(
        absl::StrCat("parent_model is '", name, "', a whole model; must be an adapter: to tune '",
                     name, "' further name it as model"));
  }
  if (parent->base_model != job.spec.model) {
    return absl::InvalidArgumentError(
        absl::StrCat("parent_model is '", name, "', an adapter over '", parent->base_model,
                     "'; model is '", job.spec.model, "', must be the same"));
  }
  LATHE_ASSIGN_OR_RETURN(const Job made_by, store_.GetJob(JobId(parent->job_id)));
  LATHE_RETURN_IF_ERROR(TakeOverLora(made_by.spec.lora, job.spec));
  for (const FileRef& file : parent->files) {
    if (file.path == "adapter_model.safetensors") job.parent.sha256 = file.blob.sha256;
  }
  job.parent.files = std::move(parent->files);
  return absl::OkStatus();
}

absl::StatusOr<Job> Coordinator::CancelJob(const JobId& id) {
  return ChangeJob(id, &Core::CancelJob, "");
}

absl::StatusOr<Job> Coordinator::PauseJob(const JobId& id) {
  return ChangeJob(id, &Core::PauseJob, "paused");
}

absl::StatusOr<Job> Coordinator::ResumeJob(const JobId& id) {
  return ChangeJob(id, &Core::ResumeJob, "resumed");
}

absl::StatusOr<Job> Coordinator::ChangeJob(const JobId& id, JobDecision decision,
                                           absl::string_view needs_life) {
  return loop_.Call(
      [&]() -> absl::StatusOr<Job> {
        LATHE_ASSIGN_OR_RETURN(Job job, store_.GetJob(id));
        if (IsFinal(job.state) && needs_life.empty()) return job;
        if (IsFinal(job.state)) {
          return absl::FailedPreconditionError(
              absl::StrCat("job ", id.value(), ": is ", JobStateName(job.state),
                           "; only a job that has not ended can be ", needs_life));
        }
        Effects effects;
        LATHE_RETURN_IF_ERROR((core_.*decision)(id, clock_.Now(), effects));
        Apply(effects);
        return store_.GetJob(id);
      },
      absl::StatusOr<Job>(Ending()));
}

bool Coordinator::MayWrite(const std::string& owner, int64_t attempt) {
  return loop_.Call([&] { return core_.MayWrite(owner, attempt); }, false);
}

bool Coordinator::KnowsJob(const JobId& id) { return store_.GetJob(id).ok(); }

absl::StatusOr<Dataset> Coordinator::AddDataset(Dataset dataset) {
  return loop_.Call(
      [&]() -> absl::StatusOr<Dataset> {
        LATHE_RETURN_IF_ERROR(CheckBlobs({{dataset.name, dataset.blob}}));
        dataset.create_time = clock_.Now();
        absl::Status status = store_.PutDataset(dataset);
        if (!absl::IsAlreadyExists(status)) {
          probe_.OnBlobBytes(blobs_.total_bytes());
          if (!status.ok()) return status;
          return dataset;
        }
        LATHE_ASSIGN_OR_RETURN(Dataset existing, store_.GetDataset(dataset.name));
        if (existing.blob == dataset.blob) return existing;
        DropBlobsOnLoop({{dataset.name, dataset.blob}});
        return absl::AlreadyExistsError(absl::StrCat(
            "data set '", dataset.name,
            "': holds other bytes; choose another name, or: lathe datasets delete ", dataset.name));
      },
      absl::StatusOr<Dataset>(Ending()));
}

absl::Status Coordinator::DeleteDataset(const std::string& name) {
  return loop_.Call([&] { return DeleteDatasetOnLoop(name); }, Ending());
}

absl::Status Coordinator::DeleteDatasetOnLoop(const std::string& name) {
  LATHE_ASSIGN_OR_RETURN(const Dataset dataset, store_.GetDataset(name));
  for (const Job* job : core_.UnfinishedJobs()) {
    if (job->spec.dataset != name) continue;
    return absl::FailedPreconditionError(absl::StrCat("data set '", name, "': ", job->id.value(),
                                                      " uses it; wait, or cancel that job"));
  }
  FileTree gone = {{name, dataset.blob}};
  for (const auto& [key, tree] : shards_) gone.insert(gone.end(), tree.begin(), tree.end());
  LATHE_RETURN_IF_ERROR(store_.DeleteDataset(name));
  LATHE_ASSIGN_OR_RETURN(shards_, store_.AllShards());
  core_.SetShards(shards_);
  DropBlobsOnLoop(gone);
  return absl::OkStatus();
}

absl::Status Coordinator::CheckModelName(const std::string& name) {
  return loop_.Call([&] { return CheckModelNameOnLoop(name); }, Ending());
}

absl::Status Coordinator::CheckModelNameOnLoop(const std::string& name) {
  LATHE_RETURN_IF_ERROR(ValidateName("name of model", name));
  Job job;
  job.spec.name = name;
  if (absl::Status status = core_.CanAdd(job); absl::IsAlreadyExists(status)) return status;
  if (store_.GetModel(name).ok()) {
    return absl::AlreadyExistsError(absl::StrCat("model '", name, "': there is one already"));
  }
  return absl::OkStatus();
}

absl::Status Coordinator::CheckBlobs(const FileTree& tree) const {
  for (const FileRef& file : tree) {
    const BlobStore::Info info = blobs_.Stat(file.blob.sha256);
    if (info.complete && info.size == file.blob.size) continue;
    return absl::AbortedError(
        absl::StrCat("file '", file.path, "': its bytes are not in the store; send them again"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Model> Coordinator::AddModel(Model model) {
  return loop_.Call(
      [&]() -> absl::StatusOr<Model> {
        if (const auto existing = store_.GetModel(model.name); existing.ok()) {
          if (existing->kind == model.kind && existing->files == model.files) return *existing;
        }
        LATHE_RETURN_IF_ERROR(CheckModelNameOnLoop(model.name));
        LATHE_RETURN_IF_ERROR(CheckBlobs(model.files));
        model.create_time = clock_.Now();
        LATHE_RETURN_IF_ERROR(store_.PutModel(model));
        probe_.OnBlobBytes(blobs_.total_bytes());
        return model;
      },
      absl::StatusOr<Model>(Ending()));
}

absl::Status Coordinator::DeleteModel(const std::string& name) {
  return loop_.Call([&] { return DeleteModelOnLoop(name); }, Ending());
}

absl::Status Coordinator::DeleteModelOnLoop(const std::string& name) {
  LATHE_ASSIGN_OR_RETURN(const Model model, store_.GetModel(name));
  for (const Job* job : core_.UnfinishedJobs()) {
    if (job->spec.model != name && job->spec.parent_model != name) continue;
    return absl::FailedPreconditionError(absl::StrCat("model '", name, "': ", job->id.value(),
                                                      " uses it; wait, or cancel that job"));
  }
  LATHE_ASSIGN_OR_RETURN(const std::vector<Model> models, store_.ListModels());
  for (const Model& other : models) {
    if (other.base_model != name) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("model '", name, "': tuned model '", other.name, "' needs it"));
  }
  LATHE_RETURN_IF_ERROR(store_.DeleteModel(name));
  DropBlobsOnLoop(model.files);
  return absl::OkStatus();
}

void Coordinator::DropBlobs(const FileTree& tree) {
  loop_.Call(
      [&] {
        DropBlobsOnLoop(tree);
        return true;
      },
      false);
}

Coordinator::KeptBlobs::KeptBlobs(Coordinator& coordinator) : coordinator_(coordinator) {
  coordinator_.loop_.Call([this] { return ++coordinator_.num_keepers_; }, 0);
}

Coordinator::KeptBlobs::~KeptBlobs() {
  coordinator_.loop_.Call(
      [this] {
        if (--coordinator_.num_keepers_ > 0) return true;
        coordinator_.DropBlobsOnLoop(std::exchange(coordinator_.drop_later_, {}));
        return true;
      },
      false);
}

// Uploads that were cut off, and checkpoints that came too late. What is on its way may be named
// yet.
void Coordinator::RemoveUnusedBlobs() {
  const auto needed = store_.ReferencedBlobs();
  const absl::Status status =
      needed.ok() ? blobs_.RemoveUnused(*needed, clock_.Now() - kUnnamedBlobLife) : needed.status();
  if (!status.ok()) LogWarning(status.ToString());
  probe_.OnBlobBytes(blobs_.total_bytes());
}

// On the loop like all that gives blobs a name, so that none is dropped while it gets one.
void Coordinator::DropBlobsOnLoop(const FileTree& tree) {
  if (num_keepers_ > 0) {
    drop_later_.insert(drop_later_.end(), tree.begin(), tree.end());
    return;
  }
  auto needed = store_.ReferencedBlobs();
  if (!needed.ok()) return LogError(needed.status().ToString());
  for (const auto& [id, errand] : errands_) {
    for (const auto& [name, input] : errand.task.inputs) {
      for (const FileRef& file : input) needed->insert(file.blob.sha256);
    }
  }
  for (const FileRef& file : tree) {
    if (needed->contains(file.blob.sha256)) continue;
    if (const absl::Status status = blobs_.Remove(file.blob.sha256); !status.ok()) {
      LogWarning(status.ToString());
    }
  }
  probe_.OnBlobBytes(blobs_.total_bytes());
}

}  // namespace lathe
