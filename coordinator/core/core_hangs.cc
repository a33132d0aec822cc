#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/core/core.h"

// Trainings that stand still.

namespace lathe {

void Core::OnProgress(const Assignment& assignment, const std::string& phase, int64_t counter,
                      int64_t collective, absl::Time now) {
  Run* const run = FindRun(assignment.owner);
  const auto rank = static_cast<size_t>(assignment.rank);
  if (run == nullptr || rank >= run->progress.size()) return;
  RankProgress& progress = run->progress[rank];
  // What was said before may come after.
  if (counter <= progress.counter) return;
  if (IsStepwise(progress)) {
    absl::Duration& longest = run->longest[progress.phase];
    longest = std::max(longest, now - progress.since);
  }
  progress = {.rank = assignment.rank,
              .phase = phase.substr(0, 40),
              .counter = counter,
              .collective = collective,
              .since = now};
  WatchForHang(*run);
}

// Ranks that have not ended. None where the gang is ending: that has deadlines of its own.
std::vector<RankProgress> Core::Watched(const Run& run) {
  std::vector<RankProgress> ranks;
  if (run.job.state != JobState::kRunning || run.job.moves) return ranks;
  for (const RankProgress& progress : run.progress) {
    const auto& outcome = run.outcomes[static_cast<size_t>(progress.rank)];
    if (outcome.has_value() && !outcome->ok) return {};
    if (outcome.has_value()) continue;
    const auto longest = run.longest.find(progress.phase);
    RankProgress& rank = ranks.emplace_back(progress);
    if (longest != run.longest.end()) rank.longest = longest->second;
  }
  return ranks;
}

void Core::WatchForHang(Run& run) const {
  run.hang_check = NextHangCheck(Watched(run), options_.hang);
}

void Core::EndHangs(absl::Time now, Effects& out) {
  std::vector<std::pair<JobId, Hang>> hangs;
  for (auto& [id, run] : runs_) {
    if (now < run.hang_check) continue;
    std::optional<Hang> hang = FindHang(Watched(run), now, options_.hang);
    if (hang.has_value()) hangs.emplace_back(id, *std::move(hang));
    // What a pause or a move has changed is seen here.
    WatchForHang(run);
  }
  for (auto& [id, hang] : hangs) EndHang(runs_.at(id), std::move(hang), now, out);
}

// Its process may take long to die: the job does not wait for it. Its slot does.
void Core::EndHang(Run& run, Hang hang, absl::Time now, Effects& out) {
  const AssignmentId id = run.job.gang[static_cast<size_t>(hang.rank)].assignment;
  Assignment& assignment = assignments_.at(id);
  HangReport report{.job = run.job, .hang = hang, .ranks = run.progress, .time = now};
  for (const PlacedRank& rank : run.job.gang) {
    const Worker* worker = fleet_.Find(rank.worker);
    report.workers.push_back(worker == nullptr ? WorkerInfo{.name = rank.worker_name}
                                               : worker->info);
  }
  out.hangs.push_back(std::move(report));
  run.hung = true;
  Cancel(assignment, now, out);
  EndAssignment(id,
                Ended{.cause = EndCause::kMachine,
                      .code = static_cast<int>(absl::StatusCode::kUnavailable),
                      .message = absl::StrCat(Where(assignment), ": ", hang.what)},
                now, out);
}

}  // namespace lathe
