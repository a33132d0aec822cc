#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "coordinator/core/core.h"

// The life of a job: queue, stages, start of an attempt, end. How an attempt ends: core_endings.cc.

namespace lathe {
namespace {

std::string Describe(const Placement& placement, const Job& job, const Fleet& fleet) {
  if (job.stage == kStagePrepare) {
    return absl::StrCat("prepare starts on ", fleet.NameOf(placement.workers[0]));
  }
  const size_t ranks = placement.workers.size();
  const bool fewer = ranks < static_cast<size_t>(job.spec.ranks);
  std::string text =
      fewer ? absl::StrCat("train starts with ", ranks, " of ", job.spec.ranks, " ranks:")
            : "train starts:";
  for (size_t rank = 0; rank < placement.workers.size(); ++rank) {
    absl::StrAppend(&text, rank == 0 ? "" : ",", " rank ", rank, " on ",
                    fleet.NameOf(placement.workers[rank]));
  }
  if (job.checkpoint.step > 0) absl::StrAppend(&text, "; goes on after step ", job.checkpoint.step);
  return text;
}

}  // namespace

Gang Core::GangFor(const Job& job) {
  if (job.stage == kStagePrepare) return {{{.role = kStagePrepare, .cpu_work = true}}};
  return {{{.role = kStageTrain, .ranks = job.spec.ranks, .on_gpu = job.spec.device == "cuda"}}};
}

Core::Run* Core::FindRun(const std::string& owner) {
  const auto found = runs_.find(JobId(owner));
  return found == runs_.end() ? nullptr : &found->second;
}

absl::StatusOr<Core::Run*> Core::UnfinishedRun(const JobId& id) {
  if (Run* run = FindRun(id.value()); run != nullptr) return run;
  return absl::NotFoundError(absl::StrCat("job ", id.value(), ": is not there or has ended"));
}

const Job* Core::FindJob(const JobId& id) const {
  const auto found = runs_.find(id);
  return found == runs_.end() ? nullptr : &found->second.job;
}

std::vector<const Job*> Core::UnfinishedJobs() const {
  std::vector<const Job*> jobs;
  jobs.reserve(queue_.size());
  jobs.reserve(queue_.size());
  for (const JobId& id : queue_) jobs.push_back(&runs_.at(id).job);
  return jobs;
}

void Core::Restore(std::vector<Job> jobs, std::map<std::string, FileTree> shards, absl::Time now,
                   Effects& out) {
  shards_ = std::move(shards);
  for (Job& job : jobs) {
    const JobId id = job.id;
    Run& run = runs_[id];
    run.job = std::move(job);
    Enqueue(id);
    if (!run.job.gang.empty()) Adopt(run, now, out);
  }
  Schedule(now, out);
}

// Its processes run on while the coordinator is away. Orders to them go out when their workers are
// back (Register).
void Core::Adopt(Run& run, absl::Time now, Effects& out) {
  const size_t world_size = run.job.gang.size();
  CountSlots(run.job, 1);
  run.adopted = true;
  run.outcomes.assign(world_size, std::nullopt);
  for (size_t rank = 0; rank < world_size; ++rank) {
    const PlacedRank& placed = run.job.gang[rank];
    fleet_.Expect(placed.worker, placed.worker_name, now + options_.restart_grace);
    fleet_.Find(placed.worker)->held[placed.assignment] = placed.slots;
    assignments_[placed.assignment] = {.id = placed.assignment,
                                       .owner = run.job.id.value(),
                                       .attempt = run.job.attempt,
                                       .worker = placed.worker,
                                       .role = run.job.stage,
                                       .rank = static_cast<int>(rank),
                                       .world_size = static_cast<int>(world_size),
                                       .slots = placed.slots,
                                       .unconfirmed = true};
    if (run.job.stage == kStageTrain) {
      run.progress.push_back({.rank = static_cast<int>(rank), .since = now});
    }
  }
  // It has no step at which it could end by itself.
  const bool stops =
      (run.job.state == JobState::kPausing || run.job.moves) && run.job.stage == kStagePrepare;
  if (run.job.state == JobState::kCancelling || stops) CancelGang(run, now, out);
  WatchForHang(run);
}

void Core::Enqueue(const JobId& id) {
  const int priority = runs_.at(id).job.spec.priority;
  const auto behind = std::find_if(queue_.begin(), queue_.end(), [&](const JobId& other) {
    return runs_.at(other).job.spec.priority < priority;
  });
  queue_.insert(behind, id);
}

Quota Core::QuotaOf(const std::string& project) const {
  Quota quota{.project = project};
  if (const auto limit = options_.quotas.find(project); limit != options_.quotas.end()) {
    quota.limit = limit->second;
  }
  if (const auto held = held_slots_.find(project); held != held_slots_.end()) {
    quota.held = held->second;
  }
  return quota;
}

// `sign`: 1 when its gang is placed, -1 when it has ended.
void Core::CountSlots(const Job& job, int sign) {
  for (const PlacedRank& rank : job.gang) held_slots_[job.project] += sign * rank.slots;
}

absl::Status Core::CanAdd(const Job& job) const {
  if (static_cast<int>(runs_.size()) >= options_.max_unfinished_jobs) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", runs_.size(), " unfinished jobs; at most ",
                     options_.max_unfinished_jobs, " are allowed: cancel some or wait"));
  }
  for (const auto& [id, run] : runs_) {
    if (run.job.project == job.project && run.job.spec.name == job.spec.name) {
      return absl::AlreadyExistsError(absl::StrCat("name is '", job.spec.name, "'; ", id.value(),
                                                   " is about to make a model of that name"));
    }
  }
  return absl::OkStatus();
}

void Core::AddJob(Job job, absl::Time now, Effects& out) {
  const JobId id = job.id;
  runs_[id].job = std::move(job);
  Enqueue(id);
  Schedule(now, out);
}

absl::Status Core::CancelJob(const JobId& id, absl::Time now, Effects& out) {
  LATHE_ASSIGN_OR_RETURN(Run* const run, UnfinishedRun(id));
  if (run->job.state == JobState::kCancelling) return absl::OkStatus();
  if (run->job.gang.empty()) {
    // RUNNING without processes: between two stages.
    if (run->job.state == JobState::kRunning) Move(*run, JobState::kCancelling);
    Finish(*run, JobState::kCancelled, now, "cancelled by its user", out);
  } else {
    Move(*run, JobState::kCancelling);
    run->job.reason = "its processes are being ended";
    Record(*run, now, "its user asked for an end", out);
    CancelGang(*run, now, out);
  }
  Schedule(now, out);
  return absl::OkStatus();
}

absl::Status Core::PauseJob(const JobId& id, absl::Time now, Effects& out) {
  LATHE_ASSIGN_OR_RETURN(Run* const run, UnfinishedRun(id));
  const JobState state = run->job.state;
  if (state == JobState::kPausing || state == JobState::kPaused) return absl::OkStatus();
  if (state == JobState::kCancelling) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job ", id.value(), ": is being cancelled; only a job that waits or runs can be paused"));
  }
  if (state == JobState::kRunning) Move(*run, JobState::kPausing);
  if (run->job.gang.empty()) {
    Pause(*run, now, out);
  } else {
    run->job.reason = "its processes write a checkpoint and end";
    Record(*run, now, "its user asked for a pause", out);
    if (run->job.stage == kStageTrain) {
      PauseGang(*run, out);
    } else {
      CancelGang(*run, now, out);  // It has no checkpoint: it is done anew.
    }
  }
  Schedule(now, out);
  return absl::OkStatus();
}

absl::Status Core::ResumeJob(const JobId& id, absl::Time now, Effects& out) {
  LATHE_ASSIGN_OR_RETURN(Run* const run, UnfinishedRun(id));
  const JobState state = run->job.state;
  if (state == JobState::kQueued || state == JobState::kRunning) return absl::OkStatus();
  if (state != JobState::kPaused) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job ", id.value(), ": is ", JobStateName(state), "; only a PAUSED job can go on"));
  }
  Move(*run, JobState::kQueued);
  run->job.reason.clear();
  Record(*run, now, "its user lets it go on", out);
  Schedule(now, out);
  return absl::OkStatus();
}

// REQUIRES: nothing of it runs. The next attempt is another one: what is left of this one can write
// nothing.
void Core::Pause(Run& run, absl::Time now, Effects& out) const {
  Move(run, JobState::kPaused);
  ++run.job.attempt;
  run.job.reason = absl::StrCat("paused; go on with: lathe jobs resume ", run.job.id.value());
  const int64_t step = run.job.checkpoint.step;
  Record(run, now, step > 0 ? absl::StrCat("paused after step ", step) : "paused", out);
}

// Another attempt would fill the disk as this one did: a person decides when it goes on.
void Core::PauseForSpace(Run& run, const Ended& blame, absl::Time now, Effects& out) const {
  run.job.failure_cause = std::string(EndCauseName(blame.cause));
  Move(run, JobState::kPausing);
  Pause(run, now, out);
  run.job.reason = absl::StrCat(
      blame.message, "; free some space and go on with: lathe jobs resume ", run.job.id.value());
  Record(run, now, blame.message, out);
}

void Core::Move(Run& run, JobState to) const {
  if (!CanMove(run.job.state, to)) {
    LogError(absl::StrCat(run.job.id.value(), ": cannot move from ", JobStateName(run.job.state),
                          " to ", JobStateName(to)));
    std::abort();
  }
  run.job.state = to;
}

void Core::Record(Run& run, absl::Time now, std::string message, Effects& out) const {
  const JobEvent event{.sequence = ++run.job.last_sequence,
                       .time = now,
                       .state = run.job.state,
                       .stage = run.job.stage,
                       .attempt = run.job.attempt,
                       .message = std::move(message)};
  out.changes.push_back({run.job, {event}, {}, {}});
}

void Core::SetReason(Run& run, const std::string& reason, Effects& out) const {
  if (run.job.reason == reason) return;
  run.job.reason = reason;
  out.changes.push_back({run.job, {}, {}, {}});
}

// Destroys `run`.
void Core::Finish(Run& run, JobState state, absl::Time now, std::string message, Effects& out) {
  Move(run, state);
  run.job.reason.clear();
  run.job.end_time = now;
  FileTree checkpoints = std::exchange(run.job.checkpoint.files, {});
  const FileTree fallback = std::exchange(run.job.fallback.files, {});
  checkpoints.insert(checkpoints.end(), fallback.begin(), fallback.end());
  Record(run, now, std::move(message), out);
  out.changes.back().dropped = std::move(checkpoints);
  const JobId id = run.job.id;
  std::erase(queue_, id);
  runs_.erase(id);
}

// Destroys `run`.
void Core::Fail(Run& run, const Ended& blame, absl::Time now, Effects& out) {
  run.job.error = blame.message;
  run.job.failure_cause = std::string(EndCauseName(blame.cause));
  Finish(run, JobState::kFailed, now, blame.message, out);
}

void Core::Schedule(absl::Time now, Effects& out) {
  std::string blocker;
  for (const JobId& id : queue_) {
    Run& run = runs_.at(id);
    const bool waits = run.job.gang.empty() &&
                       (run.job.state == JobState::kQueued || run.job.state == JobState::kRunning);
    if (!waits) continue;
    if (run.job.stage == kStagePrepare && !SkipPrepare(run, now, out)) {
      if (const Run* other = SamePreparation(run); other != nullptr) {
        SetReason(run, absl::StrCat("waits: ", other->job.id.value(), " prepares the same data"),
                  out);
        continue;
      }
    }
    if (!blocker.empty()) {
      SetReason(run, absl::StrCat("waits: ", blocker, " is before it"), out);
      continue;
    }
    Gang gang = GangFor(run.job);
    const Decision decision = PlaceElastic(
        gang, run.job.spec.min_ranks, fleet_.Views(), now,
        {.lease = options_.lease, .avoid = Unreliable(run), .quota = QuotaOf(run.job.project)});
    if (decision.placement.has_value()) {
      StartGang(run, gang, *decision.placement, now, out);
    } else {
      SetReason(run, decision.reason, out);
      // One that could run once the others end keeps its turn; one that could not holds up nobody.
      if (decision.fits_when_idle) blocker = id.value();
    }
  }
}

std::set<WorkerId> Core::Unreliable(const Run& run) const {
  std::set<WorkerId> workers;
  for (const auto& [worker, count] : run.faults) {
    if (count >= options_.max_machine_faults) workers.insert(worker);
  }
  return workers;
}

// True if what prepare would make is there already.
bool Core::SkipPrepare(Run& run, absl::Time now, Effects& out) const {
  if (!shards_.contains(run.job.shard_key)) return false;
  run.job.stage = kStageTrain;
  Record(run, now, "prepare is done already: same data, tokenizer, template and limits", out);
  return true;
}

const Core::Run* Core::SamePreparation(const Run& run) const {
  for (const auto& [id, other] : runs_) {
    if (&other != &run && other.job.stage == kStagePrepare && !other.job.gang.empty() &&
        other.job.shard_key == run.job.shard_key) {
      return &other;
    }
  }
  return nullptr;
}

void Core::StartGang(Run& run, const Gang& gang, const Placement& placement, absl::Time now,
                     Effects& out) {
  const Group& group = gang.groups[0];
  run.outcomes.assign(placement.workers.size(), std::nullopt);
  run.longest.clear();
  run.hung = false;
  run.progress.clear();
  for (size_t rank = 0; rank < placement.workers.size(); ++rank) {
    const WorkerId& worker = placement.workers[rank];
    Assignment& assignment = NewAssignment(run.job.id.value(), worker);
    assignment.attempt = run.job.attempt;
    assignment.role = group.role;
    assignment.rank = static_cast<int>(rank);
    assignment.world_size = group.ranks;
    const bool free_of_charge = group.cpu_work && fleet_.Find(worker)->info.slot_kind != "cpu";
    assignment.slots = free_of_charge ? 0 : group.slots_per_rank;
    fleet_.Find(worker)->held[assignment.id] = assignment.slots;
    run.job.gang.push_back({assignment.id, worker, fleet_.NameOf(worker), assignment.slots});
    if (group.role == kStageTrain) {
      run.progress.push_back({.rank = assignment.rank, .since = now});
    }
    out.commands.push_back({Command::Kind::kStart, assignment, {}});
  }
  CountSlots(run.job, 1);
  if (run.job.state == JobState::kQueued) Move(run, JobState::kRunning);
  if (!run.job.start_time.has_value()) run.job.start_time = now;
  run.job.reason = absl::StrCat(run.job.stage, " runs");
  Record(run, now,
         absl::StrCat("attempt ", run.job.attempt, ": ", Describe(placement, run.job, fleet_)),
         out);
  WatchForHang(run);
}

void Core::CancelGang(Run& run, absl::Time now, Effects& out) {
  for (const PlacedRank& rank : run.job.gang) {
    const auto found = assignments_.find(rank.assignment);
    if (found != assignments_.end()) Cancel(found->second, now, out);
  }
}

void Core::PauseGang(const Run& run, Effects& out) const {
  for (const PlacedRank& rank : run.job.gang) {
    const auto found = assignments_.find(rank.assignment);
    if (found != assignments_.end()) {
      out.commands.push_back({Command::Kind::kPause, found->second, {}});
    }
  }
}

}  // namespace lathe
