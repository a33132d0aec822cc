#include "tests/coordinator/core/simulation/sim_coordinator.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace lathe::simulation {

SimCoordinator::SimCoordinator(Timeline& time, Rows& rows, Verdict& verdict, SimStats& stats,
                               SimOptions& options)
    : time_(time), rows_(rows), verdict_(verdict), stats_(stats), options_(options) {}

absl::Duration SimCoordinator::Latency() {
  if (time_.Chance(options_.late_message)) {
    return time_.Between(absl::Seconds(1), absl::Seconds(8));
  }
  return time_.Between(absl::Milliseconds(1), absl::Milliseconds(20));
}

void SimCoordinator::Start() {
  ++incarnation_;
  CoreOptions options;
  options.max_unfinished_jobs = 1 << 20;
  options.quotas = {{"default", options_.quota}};
  core_ = std::make_unique<Core>(
      options, [this] { return AssignmentId(absl::StrFormat("asg-%08d", ++last_assignment_)); });
  Effects effects;
  core_->Restore(rows_.Unfinished(), rows_.shards(), time_.now(), effects);
  Apply(effects);
}

void SimCoordinator::Crash() {
  core_.reset();
  links_.clear();
  for (const LinkPtr& link : std::exchange(open_, {})) {
    if (link->broken) continue;
    link->broken = true;
    time_.After(time_.Between(absl::ZeroDuration(), absl::Seconds(3)),
                [this, link] { agents_.at(link->worker)->OnLinkGone(link); });
  }
  time_.After(time_.Between(absl::Milliseconds(100), absl::Seconds(20)), [this] { Start(); });
}

LinkPtr SimCoordinator::Dial(int worker, Agent* agent) {
  if (!up()) return nullptr;
  agents_[worker] = agent;
  auto link = std::make_shared<Link>();
  link->worker = worker;
  link->incarnation = incarnation_;
  std::erase_if(open_, [](const LinkPtr& old) { return old->broken; });
  open_.push_back(link);
  return link;
}

void SimCoordinator::Send(const LinkPtr& link, ToCoordinator message) {
  link->last_up = std::max(link->last_up, time_.now() + Latency());
  time_.At(link->last_up, [this, link, index = link->sent++, message = std::move(message)] {
    Deliver(link, index, message);
  });
}

void SimCoordinator::Down(const LinkPtr& link, ToWorker message) {
  link->last_down = std::max(link->last_down, time_.now() + Latency());
  time_.At(link->last_down, [this, link, message = std::move(message)] {
    if (link->broken) {
      ++stats_.lost_messages;
    } else {
      agents_.at(link->worker)->OnMessage(link, message);
    }
  });
}

void SimCoordinator::Break(const LinkPtr& link) {
  if (link->broken) return;
  ++stats_.broken_links;
  link->broken = true;
  link->lost_from = std::max<int64_t>(0, link->sent - time_.Below(4));
  time_.After(time_.Between(absl::ZeroDuration(), absl::Seconds(3)),
              [this, link] { agents_.at(link->worker)->OnLinkGone(link); });
  time_.After(time_.Between(absl::ZeroDuration(), absl::Seconds(20)), [this, link] {
    if (!up() || link->incarnation != incarnation_ || link->session == 0) return;
    const WorkerId worker(absl::StrCat("wrk-", link->worker));
    core_->Disconnect(worker, link->session);
    const auto present = links_.find(worker);
    if (present != links_.end() && present->second == link) links_.erase(present);
  });
}

void SimCoordinator::Deliver(const LinkPtr& link, int64_t index, const ToCoordinator& message) {
  if (!up() || link->incarnation != incarnation_ || index >= link->lost_from) {
    ++stats_.lost_messages;
    return;
  }
  const WorkerId worker(absl::StrCat("wrk-", link->worker));
  if (const auto present = links_.find(worker);
      link->session != 0 && present != links_.end() && present->second != link) {
    ++stats_.late_after_register;
  }
  switch (message.kind) {
    case ToCoordinator::Kind::kRegister:
      return Register(link, message);
    case ToCoordinator::Kind::kHeartbeat:
      return OnHeartbeat(link, message);
    case ToCoordinator::Kind::kGoodbye: {
      Effects effects;
      core_->Leave(worker, link->session, time_.now(), effects);
      if (const auto present = links_.find(worker);
          present != links_.end() && present->second == link) {
        links_.erase(present);
      }
      Apply(effects);
      return;
    }
    default:
      return OnUpdate(link, message);
  }
}

void SimCoordinator::Register(const LinkPtr& link, const ToCoordinator& message) {
  Effects effects;
  const SessionId session = ++last_session_;
  const absl::Status status =
      core_->Register(message.info, session, message.running, time_.now(), effects);
  if (!status.ok()) return verdict_.Break(absl::StrCat("a worker is refused: ", status.ToString()));
  link->session = session;
  links_[message.info.id] = link;
  Down(link, {.kind = ToWorker::Kind::kRegistered});
  Apply(effects);
}

void SimCoordinator::OnHeartbeat(const LinkPtr& link, const ToCoordinator& message) {
  const WorkerId worker(absl::StrCat("wrk-", link->worker));
  if (!core_->Heartbeat(worker, link->session, time_.now())) {
    return Down(link, {.kind = ToWorker::Kind::kClose});
  }
  Down(link, {.kind = ToWorker::Kind::kAnswer, .sequence = message.sequence});
  if (!message.draining) return;
  Effects effects;
  core_->Drain(worker, time_.now(), effects);
  Apply(effects);
}

void SimCoordinator::OnUpdate(const LinkPtr& link, const ToCoordinator& message) {
  const WorkerId worker(absl::StrCat("wrk-", link->worker));
  const Assignment* assignment =
      core_->Accept(worker, message.assignment, message.owner, message.attempt);
  const Job* row = rows_.Find(JobId(message.owner));
  if (assignment == nullptr) {
    ++stats_.fenced;
  } else if (row != nullptr && (row->attempt != message.attempt || IsFinal(row->state))) {
    verdict_.Break(absl::StrCat(message.owner, ": attempt ", message.attempt,
                                " is heard, the job is at ", row->attempt));
  }
  Effects effects;
  if (message.kind == ToCoordinator::Kind::kEnded) {
    core_->OnEnded(worker, message.assignment, message.owner, message.attempt, message.ended,
                   time_.now(), effects);
  } else if (assignment == nullptr) {
    return;
  } else if (message.kind == ToCoordinator::Kind::kRendezvous) {
    core_->OnRendezvous(*assignment, {"127.0.0.1", 7}, effects);
  } else if (message.kind == ToCoordinator::Kind::kCheckpoint) {
    const bool newer = core_->OnCheckpoint(*assignment, message.checkpoint.step,
                                           message.checkpoint.files, time_.now(), effects);
    stats_.checkpoints += newer ? 1 : 0;
  } else {
    core_->OnEvaluation(*assignment, true, {.loss = 1}, effects);
  }
  Apply(effects);
}

bool SimCoordinator::Apply(const Effects& effects) {
  if (!effects.changes.empty()) {
    ++stats_.commits;
    if (time_.Chance(options_.crash_at_commit)) {
      ++stats_.crashes_before_commit;
      Crash();
      return false;
    }
    rows_.Commit(effects.changes);
    if (time_.Chance(options_.crash_at_commit)) {
      ++stats_.crashes_after_commit;
      Crash();
      return false;
    }
  }
  CheckStarts(effects);
  for (const Command& command : effects.commands) {
    if (time_.Chance(options_.crash_at_commit)) {
      ++stats_.crashes_while_publishing;
      Crash();
      return false;
    }
    Send(command);
  }
  return true;
}

void SimCoordinator::Send(const Command& command) {
  ToWorker message{.kind = ToWorker::Kind::kCommand, .command = command};
  const Job* job = core_->FindJob(JobId(command.assignment.owner));
  if (command.kind == Command::Kind::kStart && job != nullptr) message.resume = job->checkpoint;
  const auto link = links_.find(command.assignment.worker);
  if (link != links_.end()) Down(link->second, std::move(message));
}

// All ranks of a gang at once or none, no attempt's stage twice, and on slots that were free. That
// the core's book of slots is true as well is checked where processes start: SimWorker.
void SimCoordinator::CheckStarts(const Effects& effects) {
  std::map<std::string, std::pair<std::set<int>, int>> gangs;
  for (const Command& command : effects.commands) {
    const Assignment& assignment = command.assignment;
    if (command.kind != Command::Kind::kStart) continue;
    const std::string gang_name =
        absl::StrCat(assignment.owner, " ", assignment.attempt, " ", assignment.role);
    auto& [ranks, size] = gangs[gang_name];
    ranks.insert(assignment.rank);
    size = assignment.world_size;
    const Worker& worker = *core_->fleet().Find(assignment.worker);
    int held = 0;
    for (const auto& [id, slots] : worker.held) held += slots;
    if (assignment.slots > 0 && held > worker.info.slots) {
      verdict_.Break(absl::StrCat(gang_name, ": ", worker.info.name, " has ", held,
                                  " slots taken of ", worker.info.slots));
    }
  }
  for (const auto& [gang, started] : gangs) {
    if (static_cast<int>(started.first.size()) != started.second) {
      verdict_.Break(absl::StrCat(gang, ": ", started.first.size(), " of ", started.second,
                                  " ranks were started"));
    }
    if (starts_[gang]++ > 0) verdict_.Break(absl::StrCat(gang, ": was started twice"));
  }
}

// The answer may be lost, and the user asks again under the same request id.
bool SimCoordinator::Submit(Job job) {
  if (!up()) return false;
  if (rows_.FindByRequest(job.request_id) == nullptr) {
    if (!core_->CanAdd(job).ok()) return true;
    if (time_.Chance(options_.crash_at_commit)) return Crash(), false;
    job.create_time = time_.now();
    job.last_sequence = 1;
    rows_.Create(job, {.sequence = 1, .time = time_.now(), .state = job.state, .attempt = 1});
    ++stats_.commits;
    if (time_.Chance(options_.crash_at_commit)) return Crash(), false;
    Effects effects;
    core_->AddJob(job, time_.now(), effects);
    if (!Apply(effects)) return false;
  }
  return !time_.Chance(options_.late_message);
}

void SimCoordinator::Ask(const JobId& id, Wish wish) {
  const Job* row = rows_.Find(id);
  if (!up() || row == nullptr || IsFinal(row->state)) return;
  Effects effects;
  const absl::Time now = time_.now();
  const absl::Status status = wish == Wish::kPause    ? core_->PauseJob(id, now, effects)
                              : wish == Wish::kResume ? core_->ResumeJob(id, now, effects)
                                                      : core_->CancelJob(id, now, effects);
  if (absl::IsNotFound(status)) {
    verdict_.Break(absl::StrCat(id.value(), ": is lost: ", status.message()));
  }
  if (status.ok()) ++(wish == Wish::kCancel ? stats_.cancels : stats_.pauses);
  Apply(effects);
}

void SimCoordinator::StartErrand(const std::string& id) {
  if (!up()) return;
  Effects effects;
  const auto started = core_->StartErrand(id, kRoleCheck, time_.now() + absl::Seconds(20), effects);
  if (started.ok()) Apply(effects);
}

absl::Time SimCoordinator::NextDeadline() const {
  return up() ? core_->NextDeadline() : absl::InfiniteFuture();
}

void SimCoordinator::OnDeadline() {
  Effects effects;
  const auto lost = [this] {
    const auto& workers = core_->fleet().workers();
    return std::count_if(workers.begin(), workers.end(), [](const auto& entry) {
      return entry.second.state == WorkerState::kLost;
    });
  };
  const auto before = lost();
  core_->Tick(time_.now(), effects);
  stats_.lost_workers += std::max<int64_t>(0, lost() - before);
  if (!Apply(effects) || core_->NextDeadline() > time_.now()) return;
  verdict_.Break("a deadline stays due: the loop would turn without an end");
}

void SimCoordinator::Check() const {
  if (!up()) return;
  for (const JobId& id : rows_.unfinished()) CheckRow(id);
  if (core_->UnfinishedJobs().size() != rows_.unfinished().size()) {
    verdict_.Break(absl::StrCat("the core has ", core_->UnfinishedJobs().size(),
                                " unfinished jobs, the rows ", rows_.unfinished().size()));
  }
  CheckAssignments();
}

void SimCoordinator::CheckRow(const JobId& id) const {
  const Job* job = core_->FindJob(id);
  if (job == nullptr) return verdict_.Break(absl::StrCat(id.value(), ": is lost"));
  const Job& row = *rows_.Find(id);
  if (job->state == row.state && job->attempt == row.attempt && job->stage == row.stage &&
      job->last_sequence == row.last_sequence && job->failures == row.failures &&
      job->checkpoint.step == row.checkpoint.step) {
    return;
  }
  verdict_.Break(absl::StrCat(id.value(), ": decided and not stored: ", JobStateName(job->state),
                              " attempt ", job->attempt, " event ", job->last_sequence,
                              ", stored: ", JobStateName(row.state), " attempt ", row.attempt,
                              " event ", row.last_sequence));
}

// Of a job that has not ended: what its gang waits for.
std::string SimCoordinator::Describe(const JobId& id) const {
  const Job* job = up() ? core_->FindJob(id) : nullptr;
  if (job == nullptr) return "";
  std::string text = absl::StrCat("; moves ", job->moves, ", met ", job->rendezvous.has_value());
  for (const PlacedRank& rank : job->gang) {
    const auto found = core_->assignments().find(rank.assignment);
    const bool there = found != core_->assignments().end();
    absl::StrAppend(&text, "; ", rank.assignment.value(), " on ", rank.worker_name, ": ",
                    there ? "runs" : "has ended");
    if (there && found->second.unconfirmed) text += ", unconfirmed";
    if (there && found->second.cancel_time != absl::InfiniteFuture()) text += ", told to end";
  }
  return text;
}

void SimCoordinator::CheckAssignments() const {
  std::set<std::pair<std::string, int>> ranks;
  int held = 0;
  for (const auto& [id, assignment] : core_->assignments()) {
    held += assignment.slots;
    const Worker* worker = core_->fleet().Find(assignment.worker);
    if (worker == nullptr || worker->state != WorkerState::kAlive) {
      verdict_.Break(absl::StrCat(assignment.owner, ": waits for a worker that is not there"));
    }
    const Job* job = core_->FindJob(JobId(assignment.owner));
    if (job == nullptr) continue;  // An errand.
    const bool runs = job->state == JobState::kRunning || job->state == JobState::kPausing ||
                      job->state == JobState::kCancelling;
    if (!runs || assignment.attempt != job->attempt) {
      verdict_.Break(absl::StrCat(assignment.owner, ": attempt ", assignment.attempt,
                                  " lives, the job is ", JobStateName(job->state), " at attempt ",
                                  job->attempt));
    }
    if (!ranks.emplace(assignment.owner, assignment.rank).second) {
      verdict_.Break(absl::StrCat(assignment.owner, ": rank ", assignment.rank, " lives twice"));
    }
  }
  if (held > options_.quota) {
    verdict_.Break(absl::StrCat("jobs hold ", held, " slots; their quota is ", options_.quota));
  }
}

}  // namespace lathe::simulation
