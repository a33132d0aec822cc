#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/core/core.h"

// Trainings with fewer ranks than they want.

namespace lathe {

// A restart costs seconds: more ranks come in at a checkpoint only.
void Core::GrowIfItCan(Run& run, absl::Time now, Effects& out) {
  if (!CanGrow(run, now)) return;
  run.job.moves = true;
  Record(run, now, "more slots are free: it goes on with more ranks", out);
  PauseGang(run, out);
}

bool Core::CanGrow(const Run& run, absl::Time now) const {
  const JobSpec& spec = run.job.spec;
  const int ranks = static_cast<int>(run.job.gang.size());
  if (spec.min_ranks == 0 || ranks >= spec.ranks || run.job.moves) return false;
  if (run.job.state != JobState::kRunning) return false;
  // Who has nothing comes first.
  const bool others_wait = std::any_of(runs_.begin(), runs_.end(), [](const auto& entry) {
    return entry.second.job.gang.empty() && entry.second.job.state == JobState::kQueued;
  });
  if (others_wait) return false;
  std::vector<WorkerView> views = fleet_.Views();
  for (const PlacedRank& rank : run.job.gang) {
    const auto found = assignments_.find(rank.assignment);
    if (found == assignments_.end()) return false;
    for (WorkerView& view : views) {
      if (view.id == found->second.worker) view.free_slots += found->second.slots;
    }
  }
  Quota quota = QuotaOf(run.job.project);
  quota.held -= ranks;
  Gang gang = GangFor(run.job);
  const Decision decision = PlaceElastic(
      gang, ranks, views, now, {.lease = options_.lease, .avoid = Unreliable(run), .quota = quota});
  return decision.placement.has_value() && gang.groups[0].ranks > ranks;
}

}  // namespace lathe
