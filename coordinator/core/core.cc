#include "coordinator/core/core.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

// What agents say, time, and errands. What it means for a job is in core_jobs.cc.

namespace lathe {

Core::Core(CoreOptions options, std::function<AssignmentId()> new_assignment)
    : options_(options), new_assignment_(std::move(new_assignment)), fleet_(options.lease) {}

absl::Status Core::Register(const WorkerInfo& info, SessionId session,
                            const std::vector<AssignmentId>& running, absl::Time now,
                            Effects& out) {
  LATHE_RETURN_IF_ERROR(fleet_.Register(info, session, now));
  Worker& worker = *fleet_.Find(info.id);
  const std::map<AssignmentId, int> held = std::exchange(worker.held, {});
  for (const AssignmentId& id : running) {
    // What an earlier coordinator started there is unknown here: a slot at least.
    const auto known = held.find(id);
    worker.held[id] = known == held.end() ? 1 : known->second;
    const auto found = assignments_.find(id);
    if (found == assignments_.end() || found->second.worker != info.id) {
      Assignment stale;
      stale.id = id;
      stale.worker = info.id;
      out.commands.push_back({Command::Kind::kCancel, stale, {}});
    }
  }
  for (auto& [id, assignment] : assignments_) {
    if (assignment.worker != info.id) continue;
    worker.held[id] = assignment.slots;
    const bool runs = std::find(running.begin(), running.end(), id) != running.end();
    // Its end may be on the way: the agent keeps reports while it is not connected.
    assignment.missing_since = runs ? absl::InfiniteFuture() : now;
    if (!runs) continue;
    assignment.unconfirmed = false;
    // Orders may have been lost with the old connection.
    if (assignment.cancel_time != absl::InfiniteFuture()) SendCancel(assignment, out);
    const Run* run = FindRun(assignment.owner);
    if (run != nullptr && (run->job.state == JobState::kPausing || run->job.moves)) {
      out.commands.push_back({Command::Kind::kPause, assignment, {}});
    }
    if (run != nullptr && run->job.rendezvous.has_value() && assignment.rank > 0) {
      out.commands.push_back({Command::Kind::kRendezvous, assignment, *run->job.rendezvous});
    }
  }
  Schedule(now, out);
  return absl::OkStatus();
}

bool Core::Heartbeat(const WorkerId& worker, SessionId session, absl::Time now) {
  return fleet_.Renew(worker, session, now);
}

void Core::Drain(const WorkerId& worker, absl::Time now, Effects& out) {
  Worker* const found = fleet_.Find(worker);
  if (found == nullptr || std::exchange(found->draining, true)) return;
  for (auto& [id, run] : runs_) {
    const auto& gang = run.job.gang;
    const bool is_there = std::any_of(gang.begin(), gang.end(), [&](const PlacedRank& rank) {
      return rank.worker == worker && assignments_.contains(rank.assignment);
    });
    if (!is_there || run.job.state != JobState::kRunning || run.job.moves) continue;
    run.job.moves = true;
    Record(run, now, absl::StrCat(found->info.name, " is being stopped"), out);
    if (run.job.stage == kStageTrain) {
      PauseGang(run, out);
    } else {
      CancelGang(run, now, out);  // It has no checkpoint: it is done anew.
    }
  }
}

void Core::Disconnect(const WorkerId& worker, SessionId session) {
  fleet_.Disconnect(worker, session);
}

void Core::Leave(const WorkerId& worker, SessionId session, absl::Time now, Effects& out) {
  const Worker* found = fleet_.Find(worker);
  if (found == nullptr || found->session != session) return;
  fleet_.Leave(worker);
  EndAllOn(worker, absl::StrCat(fleet_.NameOf(worker), " left"), now, out);
  Schedule(now, out);
}

const Assignment* Core::Accept(const WorkerId& worker, const AssignmentId& id,
                               const std::string& owner, int64_t attempt) const {
  const auto found = assignments_.find(id);
  if (found == assignments_.end()) return nullptr;
  const Assignment& assignment = found->second;
  const bool same =
      assignment.worker == worker && assignment.owner == owner && assignment.attempt == attempt;
  return same ? &assignment : nullptr;
}

void Core::OnRendezvous(const Assignment& assignment, const RendezvousPoint& point, Effects& out) {
  Run* run = FindRun(assignment.owner);
  if (run == nullptr || assignment.rank != 0) return;
  run->job.rendezvous = point;
  if (assignment.world_size > 1) out.changes.push_back({run->job, {}, {}, {}});
  for (const PlacedRank& rank : run->job.gang) {
    const auto peer = assignments_.find(rank.assignment);
    if (peer == assignments_.end() || peer->second.rank == 0) continue;
    out.commands.push_back({Command::Kind::kRendezvous, peer->second, point});
  }
}

void Core::OnEvaluation(const Assignment& assignment, bool before, const Evaluation& evaluation,
                        Effects& out) {
  Run* run = FindRun(assignment.owner);
  if (run == nullptr) return;
  (before ? run->job.evaluation_before : run->job.evaluation_after) = evaluation;
  out.changes.push_back({run->job, {}, {}, {}});
}

bool Core::OnCheckpoint(const Assignment& assignment, int64_t step, FileTree files, absl::Time now,
                        Effects& out) {
  Run* run = FindRun(assignment.owner);
  if (run == nullptr || assignment.rank != 0 || step <= run->job.checkpoint.step) return false;
  FileTree oldest = std::move(run->job.fallback.files);
  run->job.fallback = std::exchange(run->job.checkpoint, {.step = step, .files = std::move(files)});
  Record(*run, now, absl::StrCat("checkpoint after step ", step), out);
  out.changes.back().dropped = std::move(oldest);
  GrowIfItCan(*run, now, out);
  return true;
}

void Core::OnEnded(const WorkerId& worker, const AssignmentId& id, const std::string& owner,
                   int64_t attempt, Ended ended, absl::Time now, Effects& out) {
  if (Worker* found = fleet_.Find(worker); found != nullptr) found->held.erase(id);
  if (Accept(worker, id, owner, attempt) != nullptr) EndAssignment(id, std::move(ended), now, out);
  Schedule(now, out);
}

bool Core::MayWrite(const std::string& owner, int64_t attempt) const {
  if (errands_.contains(owner)) return attempt == 1;
  const auto run = runs_.find(JobId(owner));
  return run != runs_.end() && run->second.job.attempt == attempt && !run->second.job.gang.empty();
}

Assignment& Core::NewAssignment(const std::string& owner, const WorkerId& worker) {
  const AssignmentId id = new_assignment_();
  Assignment& assignment = assignments_[id];
  assignment.id = id;
  assignment.owner = owner;
  assignment.worker = worker;
  return assignment;
}

absl::StatusOr<Assignment> Core::StartErrand(const std::string& errand, const std::string& role,
                                             absl::Time deadline, Effects& out) {
  const Worker* best = nullptr;
  for (const auto& [id, worker] : fleet_.workers()) {
    if (worker.session == 0 || worker.state != WorkerState::kAlive) continue;
    const auto load = [](const Worker& w) { return std::make_pair(-w.FreeSlots(), w.held.size()); };
    if (best == nullptr || load(worker) < load(*best)) best = &worker;
  }
  if (best == nullptr) {
    return absl::UnavailableError(
        absl::StrCat(role, ": no worker is connected; start one with lathe up --workers 1"));
  }
  Assignment& assignment = NewAssignment(errand, best->info.id);
  assignment.role = role;
  fleet_.Find(best->info.id)->held[assignment.id] = 0;
  errands_[errand] = {assignment.id, deadline};
  out.commands.push_back({Command::Kind::kStart, assignment, {}});
  return assignment;
}

void Core::CancelErrand(const std::string& errand, absl::Time now, Effects& out) {
  const auto found = errands_.find(errand);
  if (found == errands_.end()) return;
  const auto assignment = assignments_.find(found->second.assignment);
  if (assignment != assignments_.end()) {
    Cancel(assignment->second, now, out);
    assignments_.erase(assignment);
  }
  errands_.erase(found);
}

void Core::Tick(absl::Time now, Effects& out) {
  for (const WorkerId& worker : fleet_.ExpireLeases(now)) {
    EndAllOn(worker,
             absl::StrCat(fleet_.NameOf(worker), " lost: no heartbeat for ",
                          absl::FormatDuration(options_.lease)),
             now, out);
  }
  ExpireAssignments(now, out);
  ExpireErrands(now, out);
  EndHangs(now, out);
  fleet_.Forget(now - options_.forget_worker_after);
  Schedule(now, out);
}

void Core::ExpireAssignments(absl::Time now, Effects& out) {
  std::vector<Assignment> missing;
  std::vector<std::pair<AssignmentId, Ended>> over;
  for (const auto& [id, assignment] : assignments_) {
    if (now - assignment.missing_since >= options_.missing_grace) {
      missing.push_back(assignment);
    } else if (now - assignment.cancel_time >= options_.cancel_timeout) {
      over.emplace_back(id, Ended{.cause = EndCause::kCancelled,
                                  .code = static_cast<int>(absl::StatusCode::kCancelled),
                                  .message = absl::StrCat(Where(assignment), ": does not end")});
    }
  }
  for (const Assignment& assignment : missing) EndMissing(assignment, now, out);
  for (auto& [id, ended] : over) EndAssignment(id, std::move(ended), now, out);
}

void Core::EndMissing(const Assignment& assignment, absl::Time now, Effects& out) {
  fleet_.Find(assignment.worker)->held.erase(assignment.id);
  EndAssignment(assignment.id, Gone(assignment, "the process is gone; its agent was restarted"),
                now, out);
}

// One of an earlier coordinator that its worker never confirmed may not have been started at all,
// or its end was told to that coordinator alone: then nobody failed.
Ended Core::Gone(const Assignment& assignment, absl::string_view why) {
  Run* const run = FindRun(assignment.owner);
  if (run != nullptr && assignment.unconfirmed) {
    run->interrupted =
        absl::StrCat("the coordinator was restarted; ", Where(assignment), ": ", why);
    return {.cause = EndCause::kCancelled,
            .code = static_cast<int>(absl::StatusCode::kCancelled),
            .message = run->interrupted};
  }
  return {.cause = EndCause::kMachine,
          .code = static_cast<int>(absl::StatusCode::kUnavailable),
          .message = absl::StrCat(Where(assignment), ": ", why)};
}

void Core::ExpireErrands(absl::Time now, Effects& out) {
  std::vector<std::string> over;
  for (const auto& [id, errand] : errands_) {
    if (errand.deadline <= now) over.push_back(id);
  }
  for (const std::string& id : over) {
    const std::string role = assignments_.at(errands_.at(id).assignment).role;
    CancelErrand(id, now, out);
    out.errands.push_back({id, Ended{.cause = EndCause::kMachine,
                                     .code = static_cast<int>(absl::StatusCode::kDeadlineExceeded),
                                     .message = absl::StrCat(role, ": took too long")}});
  }
}

absl::Time Core::NextDeadline() const {
  absl::Time next = fleet_.NextDeadline();
  for (const auto& [id, assignment] : assignments_) {
    next = std::min({next, assignment.missing_since + options_.missing_grace,
                     assignment.cancel_time + options_.cancel_timeout});
  }
  for (const auto& [id, errand] : errands_) next = std::min(next, errand.deadline);
  for (const auto& [id, run] : runs_) next = std::min(next, run.hang_check);
  return next;
}

void Core::EndAllOn(const WorkerId& worker, const std::string& why, absl::Time now, Effects& out) {
  std::vector<AssignmentId> ids;
  for (const auto& [id, assignment] : assignments_) {
    if (assignment.worker == worker) ids.push_back(id);
  }
  for (const AssignmentId& id : ids) {
    const auto found = assignments_.find(id);
    if (found == assignments_.end()) continue;
    EndAssignment(id, Gone(found->second, why), now, out);
  }
}

void Core::Cancel(Assignment& assignment, absl::Time now, Effects& out) {
  if (assignment.cancel_time != absl::InfiniteFuture()) return;
  assignment.cancel_time = now;
  SendCancel(assignment, out);
}

// A user who cancels wants the slots at once; otherwise there is a next attempt.
void Core::SendCancel(const Assignment& assignment, Effects& out) {
  const Run* run = FindRun(assignment.owner);
  const bool goes_on = run != nullptr && run->job.state != JobState::kCancelling;
  const bool hung = run != nullptr && run->hung;
  out.commands.push_back({Command::Kind::kCancel, assignment, {}, goes_on, hung});
}

// "rank 1 on worker-2", "import on worker-1".
std::string Core::Where(const Assignment& assignment) const {
  const std::string name = fleet_.NameOf(assignment.worker);
  if (assignment.role == kStageTrain) return absl::StrCat("rank ", assignment.rank, " on ", name);
  return absl::StrCat(assignment.role, " on ", name);
}

}  // namespace lathe
