#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/core/core.h"

// How an attempt ends, and what follows from that.

namespace lathe {
namespace {

// With method full a model of its own, else an adapter over the job's model.
Model ResultOf(const Job& job, const Ended& ended, absl::Time now) {
  const bool full = IsFullTuning(job.spec);
  return {.name = job.spec.name,
          .project = job.project,
          .kind = full ? ModelKind::kBase : ModelKind::kAdapter,
          .architecture = job.base.architecture,
          .parameters = job.trained_parameters,
          .files = ended.outputs,
          .base_model = full ? "" : job.spec.model,
          .job_id = job.id.value(),
          .method = job.spec.method,
          .parent_model = full ? job.spec.model : job.spec.parent_model,
          .parity = ended.parity,
          .create_time = now,
          .template_sha256 = job.base.template_sha256};
}

bool IsCancelled(const Ended& ended) {
  return !ended.ok && ended.code == static_cast<int>(absl::StatusCode::kCancelled);
}

}  // namespace

void Core::EndAssignment(const AssignmentId& id, Ended ended, absl::Time now, Effects& out) {
  const Assignment assignment = assignments_.at(id);
  assignments_.erase(id);
  Run* run = FindRun(assignment.owner);
  if (run == nullptr) {
    errands_.erase(assignment.owner);
    out.errands.push_back({assignment.owner, std::move(ended)});
    return;
  }
  const bool failed = !ended.ok;
  // Ranks that have not met have no step in common: the others would wait for the meeting.
  const bool have_met = assignment.world_size == 1 || run->job.rendezvous.has_value();
  const bool pauses = (run->job.state == JobState::kPausing || run->job.moves) &&
                      run->job.stage == kStageTrain && IsCancelled(ended) && have_met &&
                      !run->adopted;
  run->outcomes[static_cast<size_t>(assignment.rank)] = std::move(ended);
  WatchForHang(*run);
  // The others wait for it in vain, but for those that end by themselves at the same step. The
  // attempt is over when all have ended.
  if (failed && !pauses) CancelGang(*run, now, out);
  const bool all_ended = std::all_of(run->outcomes.begin(), run->outcomes.end(),
                                     [](const auto& outcome) { return outcome.has_value(); });
  if (all_ended) Conclude(*run, now, out);
}

void Core::Conclude(Run& run, absl::Time now, Effects& out) {
  std::vector<Ended> outcomes;
  outcomes.reserve(run.outcomes.size());
  for (auto& outcome : run.outcomes) outcomes.push_back(std::move(outcome).value_or(Ended()));
  run.outcomes.clear();
  CountSlots(run.job, -1);
  const std::vector<PlacedRank> gang = std::exchange(run.job.gang, {});
  run.job.rendezvous.reset();
  run.hang_check = absl::InfiniteFuture();
  run.adopted = false;
  const std::string interrupted = std::exchange(run.interrupted, "");
  const Ended* blame = Blame(outcomes);
  if (blame != nullptr && blame->cause == EndCause::kMachine) {
    ++run.faults[gang[static_cast<size_t>(blame - outcomes.data())].worker];
  }
  const bool moves = std::exchange(run.job.moves, false) &&
                     std::all_of(outcomes.begin(), outcomes.end(),
                                 [](const Ended& ended) { return ended.ok || IsCancelled(ended); });
  if (run.job.state == JobState::kCancelling) {
    Finish(run, JobState::kCancelled, now, "cancelled by its user", out);
  } else if (blame != nullptr && run.job.state == JobState::kPausing) {
    Pause(run, now, out);
  } else if (blame == nullptr && run.job.stage == kStagePrepare) {
    FinishPrepare(run, outcomes[0], now, out);
  } else if (blame == nullptr) {
    FinishTrain(run, outcomes, now, out);
  } else if (moves) {
    MoveElsewhere(run, now, out);
  } else if (blame->cause == EndCause::kDisk) {
    PauseForSpace(run, *blame, now, out);
  } else if (blame->cause == EndCause::kUser || blame->cause == EndCause::kBug) {
    Fail(run, *blame, now, out);
  } else if (blame->cause == EndCause::kCheckpoint) {
    RetryWithoutCheckpoint(run, *blame, now, out);
  } else if (!interrupted.empty()) {
    BeginNextAttempt(run, interrupted, now, out);
  } else {
    Retry(run, *blame, now, out);
  }
}

void Core::FinishPrepare(Run& run, const Ended& ended, absl::Time now, Effects& out) {
  if (ended.outputs.empty()) {
    Fail(run, {.cause = EndCause::kBug, .message = "prepare ended without shards"}, now, out);
    return;
  }
  shards_[run.job.shard_key] = ended.outputs;
  run.job.stage = kStageTrain;
  Record(run, now, "prepare is done", out);
  out.changes.back().shards = ended.outputs;
  if (run.job.state == JobState::kPausing) Pause(run, now, out);
}

void Core::FinishTrain(Run& run, const std::vector<Ended>& outcomes, absl::Time now, Effects& out) {
  run.job.adapter_sha256.clear();
  for (const Ended& ended : outcomes) run.job.adapter_sha256.push_back(ended.adapter_sha256);
  for (size_t rank = 0; rank < outcomes.size(); ++rank) {
    if (!outcomes[rank].adapter_sha256.empty() &&
        outcomes[rank].adapter_sha256 == outcomes[0].adapter_sha256) {
      continue;
    }
    Fail(run,
         {.cause = EndCause::kBug,
          .message = absl::StrCat("results of the ranks differ: rank 0 has sha256 '",
                                  outcomes[0].adapter_sha256, "', rank ", rank, " '",
                                  outcomes[rank].adapter_sha256, "'")},
         now, out);
    return;
  }
  if (outcomes[0].outputs.empty()) {
    Fail(run, {.cause = EndCause::kBug, .message = "rank 0 ended without a result"}, now, out);
    return;
  }
  if (!outcomes[0].parity.has_value()) {
    Fail(run, {.cause = EndCause::kBug, .message = "rank 0 ended without verifying its result"},
         now, out);
    return;
  }
  run.job.result_model = run.job.spec.name;
  run.job.trained_parameters = outcomes[0].trained_parameters;
  run.job.resumed_step = outcomes[0].resumed_step;
  run.job.resume_verified = outcomes[0].resume_verified;
  run.job.ledger = outcomes[0].ledger;
  const Model model = ResultOf(run.job, outcomes[0], now);
  Finish(run, JobState::kSucceeded, now, absl::StrCat("made model ", model.name), out);
  out.changes.back().model = model;
}

// Nobody failed: max_restarts does not count it.
void Core::MoveElsewhere(Run& run, absl::Time now, Effects& out) const {
  const int64_t ended = run.job.attempt++;
  Move(run, JobState::kQueued);
  const int64_t step = run.job.checkpoint.step;
  Record(
      run, now,
      absl::StrCat("attempt ", ended, " ends", step > 0 ? absl::StrCat(" after step ", step) : "",
                   ", attempt ", run.job.attempt, " follows elsewhere"),
      out);
}

// May destroy `run`. Every later attempt would fail like this one: it goes on from the checkpoint
// before, or from the start.
void Core::RetryWithoutCheckpoint(Run& run, const Ended& blame, absl::Time now, Effects& out) {
  SavedCheckpoint unusable = std::exchange(run.job.checkpoint, std::exchange(run.job.fallback, {}));
  Ended told = blame;
  absl::StrAppend(&told.message, "; the checkpoint after step ", unusable.step, " is given up");
  Retry(run, told, now, out);
  FileTree& dropped = out.changes.back().dropped;
  dropped.insert(dropped.end(), unusable.files.begin(), unusable.files.end());
}

// Destroys `run` if it was the last attempt.
void Core::Retry(Run& run, const Ended& blame, absl::Time now, Effects& out) {
  run.job.failure_cause = std::string(EndCauseName(blame.cause));
  ++run.job.failures;
  if (run.job.failures > run.job.spec.max_restarts) {
    Ended last = blame;
    last.message = absl::StrCat(blame.message, "; gave up after attempt ", run.job.attempt,
                                ": max_restarts is ", run.job.spec.max_restarts);
    Fail(run, last, now, out);
    return;
  }
  BeginNextAttempt(run, blame.message, now, out);
}

void Core::BeginNextAttempt(Run& run, absl::string_view why, absl::Time now, Effects& out) const {
  const int64_t ended = run.job.attempt++;
  Move(run, JobState::kQueued);
  Record(run, now,
         absl::StrCat(why, "; attempt ", ended, " ends, attempt ", run.job.attempt, " follows"),
         out);
}

}  // namespace lathe
