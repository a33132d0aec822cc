#include "tests/coordinator/core/simulation/history.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/coordinator/core/simulation/sim_worker.h"

namespace lathe::simulation {
namespace {

// Of virtual time after the last fault. The longest wait is for a process that does not end.
constexpr absl::Duration kPatience = absl::Hours(3);

class History {
 public:
  History(uint64_t seed, const SimOptions& options)
      : options_(options),
        time_(seed),
        rows_(verdict_),
        coordinator_(time_, rows_, verdict_, stats_, options_),
        gangs_(time_) {
    for (int i = 0; i < options_.workers; ++i) {
      const int slots = 1 + static_cast<int>(time_.Below(options_.max_slots));
      const double drift = 0.5 + static_cast<double>(time_.Below(100)) / 100;
      workers_.push_back(std::make_unique<SimWorker>(i, slots, drift, time_, coordinator_, gangs_,
                                                     verdict_, stats_, options_));
      slots_ += slots;
    }
  }

  Outcome Run() {
    coordinator_.Start();
    for (const auto& worker : workers_) worker->Dial();
    SubmitNext(0);
    if (options_.fault_interval < absl::InfiniteDuration()) FaultLater();
    while (stats_.events < options_.events && Turn()) {
    }
    StopFaults();
    const absl::Time patience = time_.now() + kPatience;
    while (!Done() && time_.now() < patience && Turn()) {
    }
    if (!Done()) verdict_.Break(WhatIsLeft());
    if (!verdict_.broken()) coordinator_.Check();
    Count();
    const std::string when = absl::StrCat(" (event ", stats_.events, ")");
    return {verdict_.broken() ? verdict_.why() + when : "", stats_};
  }

 private:
  // One event, or what is due before it. False: a promise was broken.
  bool Turn() {
    if (coordinator_.NextDeadline() <= time_.next()) {
      time_.AdvanceTo(coordinator_.NextDeadline());
      coordinator_.OnDeadline();
    } else {
      time_.RunNext();
    }
    if (++stats_.events % options_.check_every == 0) coordinator_.Check();
    return !verdict_.broken();
  }

  absl::Duration About(absl::Duration mean) { return time_.Between(mean / 4, mean * 7 / 4); }

  void SubmitNext(int index) {
    if (index >= options_.jobs) return;
    Job job;
    job.id = JobId(absl::StrFormat("job-%06d", index));
    job.request_id = absl::StrCat("request-", index);
    job.spec.name = absl::StrCat("model-", index);
    job.spec.ranks = 1 + static_cast<int>(time_.Below(std::min(options_.max_ranks, slots_)));
    job.spec.min_ranks = static_cast<int>(time_.Below(job.spec.ranks + 1));
    job.spec.priority = static_cast<int>(time_.Below(3)) - 1;
    constexpr int kRestarts[] = {0, 1, 5, 1000};
    job.spec.max_restarts = kRestarts[time_.Below(4)];
    // Some share what prepare makes.
    job.shard_key = absl::StrCat("key-", time_.Below(options_.jobs));
    Submit(job);
    time_.After(About(options_.submit_interval), [this, index] { SubmitNext(index + 1); });
  }

  void Submit(const Job& job) {
    if (coordinator_.Submit(job)) {
      ++acknowledged_;
      return;
    }
    time_.After(time_.Between(absl::Milliseconds(100), absl::Seconds(5)),
                [this, job] { Submit(job); });
  }

  void FaultLater() {
    time_.After(About(options_.fault_interval), [this] {
      if (!faults_) return;
      Fault();
      FaultLater();
    });
  }

  void Fault() {
    SimWorker& worker = *workers_[static_cast<size_t>(time_.Below(options_.workers))];
    switch (time_.Below(12)) {
      case 0:
        return worker.Die();
      case 1:
        return worker.Drain();
      case 2:
      case 3:
        return worker.BreakLink();
      case 4:
      case 5:
        return worker.KillOne();
      case 6:
        if (!coordinator_.up()) return;
        ++stats_.crashes_between;
        return coordinator_.Crash();
      case 7:
        return coordinator_.StartErrand(absl::StrCat("task-", ++errands_));
      case 8:
        return AskAny(SimCoordinator::Wish::kCancel, 3);
      case 9:
        return AskAny(SimCoordinator::Wish::kResume, 1);
      default:
        return AskAny(SimCoordinator::Wish::kPause, 1);
    }
  }

  // One time in `rarity`.
  void AskAny(SimCoordinator::Wish wish, int64_t rarity) {
    const auto& ids = rows_.unfinished();
    if (ids.empty() || time_.Below(rarity) != 0) return;
    auto id = ids.begin();
    std::advance(id, time_.Below(static_cast<int64_t>(ids.size())));
    coordinator_.Ask(JobId(*id), wish);
  }

  void StopFaults() {
    faults_ = false;
    options_.crash_at_commit = options_.late_message = options_.process_fails =
        options_.process_hangs = options_.damaged_checkpoint = 0;
    ResumeAll();
  }

  void ResumeAll() {
    const std::set<JobId> unfinished = rows_.unfinished();
    for (const JobId& id : unfinished) {
      if (rows_.Find(id)->state == JobState::kPaused) {
        coordinator_.Ask(id, SimCoordinator::Wish::kResume);
      }
    }
    time_.After(absl::Seconds(10), [this] { ResumeAll(); });
  }

  // Every job has ended, nothing of them runs, and the coordinator knows that.
  bool Done() const {
    return acknowledged_ == options_.jobs && rows_.unfinished().empty() && coordinator_.up() &&
           coordinator_.core()->assignments().empty() &&
           std::all_of(workers_.begin(), workers_.end(),
                       [](const auto& worker) { return worker->idle(); });
  }

  std::string WhatIsLeft() const {
    if (acknowledged_ != options_.jobs) {
      return absl::StrCat(acknowledged_, " of ", options_.jobs, " jobs are acknowledged");
    }
    for (const JobId& id : rows_.unfinished()) {
      const Job& job = *rows_.Find(id);
      return absl::StrCat(id.value(), " does not end: ", JobStateName(job.state), " ", job.stage,
                          " attempt ", job.attempt, ": ", job.reason, coordinator_.Describe(id));
    }
    return "every job has ended, and something of them still runs";
  }

  void Count() {
    for (const auto& [id, job] : rows_.jobs()) {
      stats_.succeeded += job.state == JobState::kSucceeded ? 1 : 0;
      stats_.failed += job.state == JobState::kFailed ? 1 : 0;
      stats_.cancelled += job.state == JobState::kCancelled ? 1 : 0;
    }
    if (static_cast<int64_t>(rows_.jobs().size()) != options_.jobs) {
      verdict_.Break(absl::StrCat(rows_.jobs().size(), " jobs of ", options_.jobs, " requests"));
    }
  }

  SimOptions options_;
  Timeline time_;
  Verdict verdict_;
  SimStats stats_;
  Rows rows_;
  SimCoordinator coordinator_;
  Gangs gangs_;
  std::vector<std::unique_ptr<SimWorker>> workers_;
  int slots_ = 0;
  int acknowledged_ = 0;
  int errands_ = 0;
  bool faults_ = true;
};

}  // namespace

void SimStats::Add(const SimStats& other) {
  events += other.events;
  commits += other.commits;
  crashes_before_commit += other.crashes_before_commit;
  crashes_after_commit += other.crashes_after_commit;
  crashes_while_publishing += other.crashes_while_publishing;
  crashes_between += other.crashes_between;
  broken_links += other.broken_links;
  lost_messages += other.lost_messages;
  repeated_updates += other.repeated_updates;
  late_after_register += other.late_after_register;
  fenced += other.fenced;
  worker_deaths += other.worker_deaths;
  drains += other.drains;
  lost_workers += other.lost_workers;
  checkpoints += other.checkpoints;
  unusable_checkpoints += other.unusable_checkpoints;
  pauses += other.pauses;
  cancels += other.cancels;
  succeeded += other.succeeded;
  failed += other.failed;
  cancelled += other.cancelled;
}

SimOptions SmallHistory(uint64_t seed) {
  Timeline dice(seed ^ 0x5eed);
  SimOptions options;
  options.workers = 1 + static_cast<int>(dice.Below(5));
  options.max_slots = 1 + static_cast<int>(dice.Below(3));
  options.jobs = 1 + static_cast<int>(dice.Below(12));
  options.events = 100 + dice.Below(201);
  options.fault_interval = absl::Seconds(1 + dice.Below(8));
  options.submit_interval = absl::Seconds(1 + dice.Below(4));
  options.crash_at_commit = dice.Below(4) == 0 ? 0.05 : 0.01;
  if (dice.Below(3) == 0) options.quota = options.max_ranks + static_cast<int>(dice.Below(3));
  return options;
}

SimOptions LargeHistory() {
  SimOptions options;
  options.workers = 1000;
  options.max_slots = 4;
  options.jobs = 10000;
  options.max_ranks = 4;
  options.events = 150000;
  options.check_every = 5000;
  options.fault_interval = absl::Milliseconds(100);
  options.submit_interval = absl::Milliseconds(4);
  options.crash_at_commit = 0.0001;
  return options;
}

Outcome RunHistory(uint64_t seed, const SimOptions& options) {
  return History(seed, options).Run();
}

}  // namespace lathe::simulation
