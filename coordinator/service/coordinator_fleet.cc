#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/coordinator.h"

// Agents, errands and chats.

namespace lathe {
namespace {

namespace pb = ::lathe::internal::v1;

constexpr int kProtocol = 1;

absl::Status Ending() { return absl::UnavailableError("the coordinator is ending; try again"); }

absl::Status CheckProtocol(const pb::Register& hello) {
  if (hello.min_protocol() <= kProtocol && hello.max_protocol() >= kProtocol) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat("protocol of worker is [", hello.min_protocol(),
                                                    ", ", hello.max_protocol(),
                                                    "]; the coordinator speaks ", kProtocol));
}

}  // namespace

void Coordinator::OnAgentMessage(std::shared_ptr<AgentLink> link, pb::AgentMessage message) {
  loop_.Post([this, link = std::move(link), message = std::move(message)] {
    if (message.has_register_()) {
      const absl::Status status = Register(link, message.register_());
      if (!status.ok()) {
        LogWarning(absl::StrCat("worker '", message.register_().name().substr(0, 80),
                                "' is refused: ", status.message()));
        return link->Close(status);
      }
    } else if (link->session == 0) {
      return link->Close(absl::FailedPreconditionError("the first message must be `register`"));
    } else if (message.has_heartbeat()) {
      OnHeartbeat(*link, message.heartbeat());
    } else if (message.has_update()) {
      OnUpdate(*link, message.update());
    }
    link->ReadNext();
  });
}

absl::Status Coordinator::Register(const std::shared_ptr<AgentLink>& link,
                                   const pb::Register& hello) {
  if (link->session != 0) return absl::FailedPreconditionError("`register` was sent twice");
  LATHE_RETURN_IF_ERROR(CheckProtocol(hello));
  const WorkerInfo info = FromProto(hello);
  std::vector<AssignmentId> running;
  for (const std::string& id : hello.running_assignments()) running.emplace_back(id);
  if (running.size() > 10000) {
    return absl::InvalidArgumentError("running_assignments has over 10000 entries");
  }

  LATHE_RETURN_IF_ERROR(fault::Hit("coordinator.register"));
  Effects effects;
  const SessionId session = ++last_session_;
  LATHE_RETURN_IF_ERROR(core_.Register(info, session, running, clock_.Now(), effects));
  link->worker = info.id;
  link->session = session;
  const std::shared_ptr<AgentLink> old = std::exchange(links_[info.id], link);
  if (old != nullptr) old->Close(absl::AbortedError("the worker has connected anew"));
  LogInfo(absl::StrCat("worker ", info.name, " is connected: ", info.slots, " ", info.slot_kind,
                       " slots, ", running.size(), " running"));

  pb::CoordinatorMessage answer;
  pb::Registered* registered = answer.mutable_registered();
  registered->set_protocol(kProtocol);
  *registered->mutable_lease() = ToProto(options_.core.lease);
  *registered->mutable_heartbeat_interval() = ToProto(options_.heartbeat_interval);
  *registered->mutable_orphan_timeout() = ToProto(options_.orphan_timeout);
  link->Send(std::move(answer));
  fault::Pass("coordinator.registered");
  Apply(effects);
  return absl::OkStatus();
}

void Coordinator::OnHeartbeat(AgentLink& link, const pb::Heartbeat& heartbeat) {
  if (!core_.Heartbeat(link.worker, link.session, clock_.Now())) {
    link.Close(absl::FailedPreconditionError("the lease is over; register again"));
    return;
  }
  pb::CoordinatorMessage answer;
  answer.mutable_heartbeat()->set_sequence(heartbeat.sequence());
  // A lost answer: what was reported comes again.
  if (fault::Hit("coordinator.heartbeat").ok()) link.Send(std::move(answer));
  if (!heartbeat.draining()) return;
  Effects effects;
  core_.Drain(link.worker, clock_.Now(), effects);
  Apply(effects);
}

void Coordinator::OnUpdate(const AgentLink& link, const pb::AssignmentUpdate& update) {
  fault::Pass(update.has_ended() ? "coordinator.ended" : "coordinator.update");
  if (update.has_ended()) return OnEndedUpdate(link, update);
  const Assignment* assignment = core_.Accept(link.worker, AssignmentId(update.assignment_id()),
                                              update.job_id(), update.attempt());
  if (assignment == nullptr) {
    // Of an attempt that is over: its bytes were stored before that.
    if (update.has_checkpoint()) DropCheckpoint(update.checkpoint());
    return;
  }
  Effects effects;
  switch (update.update_case()) {
    case pb::AssignmentUpdate::kRendezvous:
      core_.OnRendezvous(*assignment, {update.rendezvous().host(), update.rendezvous().port()},
                         effects);
      break;
    case pb::AssignmentUpdate::kPhase:
      return core_.OnProgress(*assignment, update.phase().name(), update.phase().counter(),
                              update.phase().collective(), clock_.Now());
    case pb::AssignmentUpdate::kEvaluation:
      core_.OnEvaluation(*assignment, update.evaluation().before(),
                         FromProto(update.evaluation().evaluation()), effects);
      break;
    case pb::AssignmentUpdate::kStep:
      OnStep(*assignment, update.step());
      break;
    case pb::AssignmentUpdate::kCheckpoint:
      OnCheckpoint(*assignment, update.checkpoint(), effects);
      break;
    case pb::AssignmentUpdate::kProgress:
      if (const auto errand = errands_.find(update.job_id());
          errand != errands_.end() && errand->second.callbacks.on_progress) {
        errand->second.callbacks.on_progress(update.progress().substr(0, 1024));
      }
      break;
    default:
      break;
  }
  Apply(effects);
}

// A checkpoint whose files are not all here is none.
void Coordinator::OnCheckpoint(const Assignment& assignment, const pb::SavedCheckpoint& saved,
                               Effects& effects) {
  absl::StatusOr<FileTree> files = FromProto(saved.files());
  absl::Status status = fault::Hit("coordinator.checkpoint");
  if (status.ok()) status = files.status();
  if (status.ok() && (files->empty() || saved.step() < 1)) {
    status = absl::InvalidArgumentError("has no files or no step");
  }
  if (status.ok()) status = CheckBlobs(*files);
  if (!status.ok()) {
    LogWarning(absl::StrCat(assignment.owner, ": checkpoint after step ", saved.step(), ": ",
                            status.message()));
  }
  if (!status.ok() ||
      !core_.OnCheckpoint(assignment, saved.step(), *std::move(files), clock_.Now(), effects)) {
    return DropCheckpoint(saved);
  }
  probe_.OnBlobBytes(blobs_.total_bytes());
}

// What else is named stays.
void Coordinator::DropCheckpoint(const pb::SavedCheckpoint& saved) {
  if (const absl::StatusOr<FileTree> files = FromProto(saved.files()); files.ok()) {
    DropBlobsOnLoop(*files);
  }
}

void Coordinator::OnStep(const Assignment& assignment, const v1::StepStats& reported) {
  const JobId job(assignment.owner);
  if (core_.FindJob(job) == nullptr || assignment.rank != 0) return;
  // After a broken connection an agent sends again what may have been lost.
  const auto step_key = std::make_pair(assignment.attempt, reported.step());
  if (const auto last = last_step_.find(job);
      last != last_step_.end() && last->second >= step_key) {
    return;
  }
  last_step_[job] = step_key;
  v1::StepStats step = reported;
  step.set_attempt(assignment.attempt);
  const absl::Status status = store_.PutStep({.job = job,
                                              .step = step.step(),
                                              .attempt = assignment.attempt,
                                              .payload = step.SerializeAsString()});
  // A lost step is no reason to end a training.
  if (!status.ok()) return LogWarning(status.ToString());
  probe_.OnStep(job, step);
  hub_.Notify(job.value());
}

void Coordinator::OnEndedUpdate(const AgentLink& link, const pb::AssignmentUpdate& update) {
  auto ended = FromProto(update.ended());
  if (ended.ok() && ended->ok) {
    if (const absl::Status status = CheckBlobs(ended->outputs); !status.ok()) {
      ended = Ended{.cause = EndCause::kMachine,
                    .code = static_cast<int>(status.code()),
                    .message = std::string(status.message())};
    }
  }
  if (!ended.ok()) {
    ended = Ended{.cause = EndCause::kBug,
                  .code = static_cast<int>(ended.status().code()),
                  .message = absl::StrCat("outputs: ", ended.status().message())};
  }
  Effects effects;
  core_.OnEnded(link.worker, AssignmentId(update.assignment_id()), update.job_id(),
                update.attempt(), *std::move(ended), clock_.Now(), effects);
  probe_.OnBlobBytes(blobs_.total_bytes());
  Apply(effects);
}

void Coordinator::OnAgentGone(std::shared_ptr<AgentLink> link, bool goodbye) {
  loop_.Post([this, link = std::move(link), goodbye] {
    if (link->session == 0) return;
    const auto found = links_.find(link->worker);
    if (found != links_.end() && found->second == link) links_.erase(found);
    LogInfo(absl::StrCat("worker ", core_.fleet().NameOf(link->worker),
                         goodbye ? " left" : " is disconnected"));
    Effects effects;
    if (goodbye) {
      core_.Leave(link->worker, link->session, clock_.Now(), effects);
    } else {
      core_.Disconnect(link->worker, link->session);
    }
    Apply(effects);
  });
}

std::vector<Coordinator::WorkerSnapshot> Coordinator::Workers() {
  return loop_.Call(
      [this] {
        std::map<WorkerId, WorkerSnapshot> by_id;
        for (const auto& [id, worker] : core_.fleet().workers()) by_id[id].worker = worker;
        for (const auto& [id, assignment] : core_.assignments()) {
          std::string text = absl::StrCat(assignment.owner, " ", assignment.role);
          if (assignment.role == kStageTrain) absl::StrAppend(&text, " rank ", assignment.rank);
          by_id[assignment.worker].assignments.push_back(std::move(text));
        }
        std::vector<WorkerSnapshot> all;
        all.reserve(by_id.size());
        all.reserve(by_id.size());
        for (auto& [id, snapshot] : by_id) all.push_back(std::move(snapshot));
        std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) {
          return a.worker.info.name < b.worker.info.name;
        });
        return all;
      },
      std::vector<WorkerSnapshot>());
}

void Coordinator::SendTo(const WorkerId& worker, pb::CoordinatorMessage message) {
  const auto link = links_.find(worker);
  // Of a disconnected one: it is told again when it registers.
  if (link != links_.end()) link->second->Send(std::move(message));
}

void Coordinator::Send(const Command& command) {
  const Assignment& assignment = command.assignment;
  pb::CoordinatorMessage message;
  if (command.kind == Command::Kind::kCancel) {
    message.mutable_cancel()->set_assignment_id(assignment.id.value());
    message.mutable_cancel()->set_keep_checkpoint(command.keep_checkpoint);
    message.mutable_cancel()->set_diagnose(command.diagnose);
  } else if (command.kind == Command::Kind::kPause) {
    message.mutable_pause()->set_assignment_id(assignment.id.value());
  } else if (command.kind == Command::Kind::kRendezvous) {
    message.mutable_rendezvous()->set_assignment_id(assignment.id.value());
    message.mutable_rendezvous()->mutable_rendezvous()->set_host(command.rendezvous.host);
    message.mutable_rendezvous()->mutable_rendezvous()->set_port(command.rendezvous.port);
  } else {
    const Worker* worker = core_.fleet().Find(assignment.worker);
    const int threads = worker == nullptr ? 1 : worker->info.threads_per_slot;
    if (const Job* job = core_.FindJob(JobId(assignment.owner)); job != nullptr) {
      const auto shards = shards_.find(job->shard_key);
      *message.mutable_assignment() = JobAssignment(
          assignment, *job, shards == shards_.end() ? FileTree() : shards->second, threads);
    } else if (const auto errand = errands_.find(assignment.owner); errand != errands_.end()) {
      *message.mutable_assignment() = ErrandAssignment(assignment, errand->second.task, threads);
    } else {
      return;
    }
  }
  SendTo(assignment.worker, std::move(message));
}

absl::StatusOr<std::string> Coordinator::StartErrand(const std::string& role, ErrandTask task,
                                                     absl::Duration timeout,
                                                     ErrandCallbacks callbacks) {
  return loop_.Call(
      [&] {
        return StartErrandOnLoop(role, std::move(task), clock_.Now() + timeout,
                                 std::move(callbacks));
      },
      absl::StatusOr<std::string>(Ending()));
}

absl::StatusOr<std::string> Coordinator::StartErrandOnLoop(const std::string& role, ErrandTask task,
                                                           absl::Time deadline,
                                                           ErrandCallbacks callbacks) {
  std::string id = absl::StrCat("task-", NewUlid());
  Effects effects;
  LATHE_RETURN_IF_ERROR(core_.StartErrand(id, role, deadline, effects).status());
  errands_[id] = {std::move(task), std::move(callbacks)};
  Apply(effects);
  return id;
}

void Coordinator::CancelErrand(const std::string& errand) {
  loop_.Post([this, errand] {
    Effects effects;
    core_.CancelErrand(errand, clock_.Now(), effects);
    errands_.erase(errand);
    Apply(effects);
  });
}

void Coordinator::OnErrandEnd(const ErrandEnd& end) {
  const auto found = errands_.find(end.errand);
  if (found == errands_.end()) return;
  const ErrandCallbacks callbacks = std::move(found->second.callbacks);
  errands_.erase(found);
  if (callbacks.on_end) callbacks.on_end(end.ended);
  const std::string why = end.ended.message.empty() ? "its process has ended" : end.ended.message;
  for (const std::string& chat : deployments_.OnEnded(end.errand)) {
    EndChat(chat, absl::UnavailableError(absl::StrCat("chat: ", why)));
  }
}

absl::StatusOr<Coordinator::ChatTarget> Coordinator::FindChatTarget(const std::string& name) {
  LATHE_ASSIGN_OR_RETURN(const Model model, store_.GetModel(name));
  if (model.kind == ModelKind::kBase) {
    return ChatTarget{.base = model.name, .base_files = model.files};
  }
  LATHE_ASSIGN_OR_RETURN(const Model base, store_.GetModel(model.base_model));
  LATHE_ASSIGN_OR_RETURN(const Job job, store_.GetJob(JobId(model.job_id)));
  return ChatTarget{.base = base.name,
                    .base_storage = BaseStorageOf(job.spec),
                    .base_files = base.files,
                    .adapter = model.files};
}

absl::Status Coordinator::EnsureDeployment(const ChatTarget& target) {
  if (deployments_.Find(target.deployment()) != nullptr) return absl::OkStatus();
  if (static_cast<int>(deployments_.size()) >= options_.max_deployments) {
    return absl::UnavailableError(absl::StrCat("chat: ", deployments_.size(),
                                               " base models are served; at most ",
                                               options_.max_deployments, " at once, try later"));
  }
  const std::string errand = absl::StrCat("task-", NewUlid());
  Effects effects;
  LATHE_ASSIGN_OR_RETURN(const Assignment assignment,
                         core_.StartErrand(errand, kRoleServe, absl::InfiniteFuture(), effects));
  errands_[errand] = {ServeErrand(target.base_files, target.base_storage), {}};
  deployments_.Add(target.deployment(), errand, assignment, clock_.Now());
  Apply(effects);
  return absl::OkStatus();
}

absl::StatusOr<std::string> Coordinator::OpenChat(const v1::ChatRequest& request,
                                                  std::shared_ptr<ChatSession> session) {
  return loop_.Call([&] { return OpenChatOnLoop(request, std::move(session)); },
                    absl::StatusOr<std::string>(Ending()));
}

absl::StatusOr<std::string> Coordinator::OpenChatOnLoop(const v1::ChatRequest& request,
                                                        std::shared_ptr<ChatSession> session) {
  LATHE_ASSIGN_OR_RETURN(const ChatTarget target, FindChatTarget(request.model()));
  LATHE_RETURN_IF_ERROR(EnsureDeployment(target));
  const Assignment assignment = deployments_.Find(target.deployment())->assignment;
  if (!links_.contains(assignment.worker)) {
    return absl::UnavailableError(absl::StrCat("chat: ", core_.fleet().NameOf(assignment.worker),
                                               " is not connected; try again"));
  }
  std::string id = absl::StrCat("chat-", NewUlid());
  LATHE_RETURN_IF_ERROR(chats_.Add(id, std::move(session)));
  deployments_.OpenChat(target.deployment(), id, clock_.Now());
  pb::CoordinatorMessage message;
  pb::ChatStart* start = message.mutable_chat();
  start->set_assignment_id(assignment.id.value());
  start->set_chat_id(id);
  *start->mutable_request() = request;
  *start->mutable_adapter() = ToProto(target.adapter);
  SendTo(assignment.worker, std::move(message));
  return id;
}

void Coordinator::CloseChat(const std::string& id) {
  loop_.Post([this, id] {
    chats_.Remove(id);
    const std::optional<Assignment> assignment = deployments_.CloseChat(id, clock_.Now());
    if (!assignment.has_value()) return;
    // Also after the last text: the worker ignores what it does not know.
    pb::CoordinatorMessage message;
    message.mutable_chat_cancel()->set_assignment_id(assignment->id.value());
    message.mutable_chat_cancel()->set_chat_id(id);
    SendTo(assignment->worker, std::move(message));
  });
}

void Coordinator::EndChat(const std::string& id, const absl::Status& status) {
  const std::shared_ptr<ChatSession> session = chats_.Find(id);
  if (session == nullptr) return;
  session->End(status);
  hub_.Notify(Chats::HubKey(id));
}

}  // namespace lathe
