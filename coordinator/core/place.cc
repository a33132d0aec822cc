#include "coordinator/core/place.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace lathe {
namespace {

bool IsUsable(const WorkerView& worker, absl::Time now, const PlaceOptions& options) {
  return worker.connected && now - worker.last_seen <= options.lease;
}

bool IsOnGpu(const Gang& gang) {
  return std::any_of(gang.groups.begin(), gang.groups.end(),
                     [](const Group& group) { return group.on_gpu; });
}

// The kind whose slots the gang takes, given who is there.
std::string KindFor(const Gang& gang, const std::vector<WorkerView>& usable) {
  const auto has = [&](absl::string_view kind) {
    return std::any_of(usable.begin(), usable.end(),
                       [&](const WorkerView& w) { return w.slot_kind == kind; });
  };
  if (IsOnGpu(gang)) return "cuda";
  return has("cpu") || !has("cuda") ? "cpu" : "cuda";
}

int CostOf(const Group& group, absl::string_view kind) {
  return group.cpu_work && kind != "cpu" ? 0 : group.slots_per_rank;
}

// `workers` by value: free_slots is counted down.
std::optional<Placement> Spread(const Gang& gang, std::vector<WorkerView> workers,
                                absl::string_view kind) {
  Placement placement;
  for (const Group& group : gang.groups) {
    const int cost = CostOf(group, kind);
    for (int rank = 0; rank < group.ranks; ++rank) {
      const auto best =
          std::min_element(workers.begin(), workers.end(), [](const auto& a, const auto& b) {
            return std::make_tuple(-a.free_slots, a.name, a.id) <
                   std::make_tuple(-b.free_slots, b.name, b.id);
          });
      if (best == workers.end() || best->free_slots < cost) return std::nullopt;
      best->free_slots -= cost;
      placement.workers.push_back(best->id);
    }
  }
  return placement;
}

std::string Count(int number, absl::string_view noun) {
  return absl::StrCat(number, " ", noun, number == 1 ? "" : "s");
}

int SlotsOf(const Gang& gang, absl::string_view kind) {
  int needed = 0;
  for (const Group& group : gang.groups) needed += group.ranks * CostOf(group, kind);
  return needed;
}

std::string QuotaReason(const Quota& quota, int needed) {
  const std::string never = needed > quota.limit ? ": it may never have so many" : "";
  return absl::StrCat("waits: project '", quota.project, "' holds ", quota.held, " of its ",
                      Count(quota.limit, "slot"), ", needs ", needed, never);
}

std::string WaitReason(const Gang& gang, const std::vector<WorkerView>& workers,
                       const std::string& kind, bool fits_when_idle) {
  const int needed = SlotsOf(gang, kind);
  if (workers.empty()) {
    const bool gpus = kind == "cuda";
    return absl::StrCat("waits: no worker ", gpus ? "offers GPUs" : "is connected", ", needs ",
                        Count(needed, kind + " slot"),
                        gpus ? ": start lathe-worker with --gpus all" : "");
  }
  int free = 0;
  int total = 0;
  for (const WorkerView& worker : workers) {
    free += std::max(worker.free_slots, 0);
    total += worker.slots;
  }
  std::string reason =
      absl::StrCat("waits: ", Count(free, kind + " slot"), " free on ",
                   Count(static_cast<int>(workers.size()), "worker"), ", needs ", needed);
  if (!fits_when_idle) {
    absl::StrAppend(&reason, "; they have ", total, " in all: start more workers");
  }
  return reason;
}

Decision PlaceAmong(const Gang& gang, std::vector<WorkerView> usable, const Quota& quota) {
  const std::string kind = KindFor(gang, usable);
  // Not one to wait for: it depends on jobs of its own project, not on workers.
  Decision decision;
  if (const int needed = SlotsOf(gang, kind); needed > quota.limit - quota.held) {
    decision.reason = QuotaReason(quota, needed);
    return decision;
  }
  std::erase_if(usable, [&](const WorkerView& worker) { return worker.slot_kind != kind; });

  decision.placement = Spread(gang, usable, kind);
  if (decision.placement.has_value()) {
    decision.fits_when_idle = true;
    return decision;
  }
  std::vector<WorkerView> idle = usable;
  for (WorkerView& worker : idle) worker.free_slots = worker.slots;
  decision.fits_when_idle = Spread(gang, std::move(idle), kind).has_value();
  decision.reason = WaitReason(gang, usable, kind, decision.fits_when_idle);
  return decision;
}

}  // namespace

Decision Place(const Gang& gang, std::span<const WorkerView> workers, absl::Time now,
               const PlaceOptions& options) {
  std::vector<WorkerView> usable;
  std::copy_if(workers.begin(), workers.end(), std::back_inserter(usable),
               [&](const WorkerView& worker) { return IsUsable(worker, now, options); });
  std::vector<WorkerView> trusted = usable;
  const auto num_avoided = std::erase_if(
      trusted, [&](const WorkerView& worker) { return options.avoid.contains(worker.id); });
  if (num_avoided == 0) return PlaceAmong(gang, std::move(usable), options.quota);
  Decision decision = PlaceAmong(gang, std::move(trusted), options.quota);
  if (!decision.fits_when_idle) return PlaceAmong(gang, std::move(usable), options.quota);
  if (!decision.reason.empty()) {
    absl::StrAppend(&decision.reason, "; not on ", Count(static_cast<int>(num_avoided), "worker"),
                    " that failed it repeatedly");
  }
  return decision;
}

Decision PlaceElastic(Gang& gang, int min_ranks, std::span<const WorkerView> workers,
                      absl::Time now, const PlaceOptions& options) {
  Decision all = Place(gang, workers, now, options);
  if (min_ranks == 0 || all.placement.has_value()) return all;
  const auto place = [&](int ranks) {
    Gang fewer = gang;
    fewer.groups[0].ranks = ranks;
    return Place(fewer, workers, now, options);
  };
  Decision best = place(min_ranks);
  if (!best.placement.has_value()) {
    all.fits_when_idle = best.fits_when_idle;
    absl::StrAppend(&all.reason, ", at least ", min_ranks);
    return all;
  }
  // What fits, fits with fewer ranks as well.
  int low = min_ranks;
  int high = gang.groups[0].ranks;
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    Decision decision = place(middle);
    (decision.placement.has_value() ? low : high) = middle;
    if (decision.placement.has_value()) best = std::move(decision);
  }
  gang.groups[0].ranks = low;
  return best;
}

}  // namespace lathe
