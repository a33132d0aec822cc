// The core's promises in histories that are drawn from seeds. A sample by default; scripts/simulate
// runs more, through these variables:
//   LATHE_SIMULATE_SMALL, LATHE_SIMULATE_LARGE   seeds, "FIRST-LAST" or one
//   LATHE_SIMULATE_THREADS                       histories that run at once, each on one thread

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/mutex.h"
#include "tests/coordinator/core/simulation/history.h"

namespace lathe::simulation {
namespace {

struct Seeds {
  uint64_t first = 1;
  uint64_t last = 0;  // Included.
};

std::string Variable(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

Seeds ParseSeeds(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, '-');
  Seeds seeds;
  EXPECT_TRUE(absl::SimpleAtoi(parts.front(), &seeds.first) &&
              absl::SimpleAtoi(parts.back(), &seeds.last))
      << text << ": must be FIRST-LAST or one seed";
  return seeds;
}

void Print(absl::string_view kind, const Seeds& seeds, const SimStats& sum) {
  absl::PrintF(
      "%s histories, seeds %d-%d: %d events, %d commits\n"
      "  coordinator crashes: %d before a commit, %d after it, %d while it was told, %d between\n"
      "  links: %d broken, %d messages lost, %d updates said again, %d late, %d fenced off\n"
      "  workers: %d died, %d drained, %d lost by lease\n"
      "  checkpoints: %d, %d that could not be used; %d pauses and resumes, %d cancels\n"
      "  jobs: %d succeeded, %d failed, %d cancelled\n",
      kind, seeds.first, seeds.last, sum.events, sum.commits, sum.crashes_before_commit,
      sum.crashes_after_commit, sum.crashes_while_publishing, sum.crashes_between, sum.broken_links,
      sum.lost_messages, sum.repeated_updates, sum.late_after_register, sum.fenced,
      sum.worker_deaths, sum.drains, sum.lost_workers, sum.checkpoints, sum.unusable_checkpoints,
      sum.pauses, sum.cancels, sum.succeeded, sum.failed, sum.cancelled);
}

// Runs every seed; returns what they had in them.
template <class OptionsOf>
SimStats RunAll(absl::string_view kind, const Seeds& seeds, OptionsOf options_of) {
  int threads = 1;
  EXPECT_TRUE(absl::SimpleAtoi(Variable("LATHE_SIMULATE_THREADS", "1"), &threads));
  Mutex mutex;
  SimStats sum;
  std::atomic<uint64_t> next = seeds.first;
  std::atomic<int> num_broken = 0;
  const auto work = [&] {
    for (uint64_t seed = next++; seed <= seeds.last && num_broken < 5; seed = next++) {
      const Outcome outcome = RunHistory(seed, options_of(seed));
      const MutexLock lock(mutex);
      sum.Add(outcome.stats);
      if (outcome.broken.empty()) continue;
      ++num_broken;
      ADD_FAILURE() << kind << " history of seed " << seed << ": " << outcome.broken
                    << "\nrun it again: scripts/simulate --" << kind << " " << seed;
    }
  };
  {
    std::vector<std::jthread> workers;
    for (int i = 0; i < threads; ++i) workers.emplace_back(work);
  }
  Print(kind, seeds, sum);
  return sum;
}

TEST(SimulationTest, PromisesHoldInSmallHistories) {
  const Seeds seeds = ParseSeeds(Variable("LATHE_SIMULATE_SMALL", "1-500"));
  const SimStats sum = RunAll("small", seeds, SmallHistory);
  if (seeds.last - seeds.first < 400) return;
  // A fault that never comes proves nothing.
  for (const int64_t count :
       {sum.crashes_before_commit, sum.crashes_after_commit, sum.crashes_while_publishing,
        sum.crashes_between, sum.broken_links, sum.lost_messages, sum.repeated_updates, sum.fenced,
        sum.worker_deaths, sum.drains, sum.lost_workers, sum.checkpoints, sum.unusable_checkpoints,
        sum.succeeded, sum.failed, sum.cancelled}) {
    EXPECT_GT(count, 0);
  }
}

TEST(SimulationTest, PromisesHoldInLargeHistories) {
  const std::string asked = Variable("LATHE_SIMULATE_LARGE", "");
  if (!asked.empty()) {
    RunAll("large", ParseSeeds(asked), [](uint64_t) { return LargeHistory(); });
    return;
  }
  // The sample: a tenth of it, and less.
  RunAll("large", {1, 1}, [](uint64_t) {
    SimOptions options = LargeHistory();
    options.workers = 60;
    options.jobs = 300;
    options.events = 4000;
    options.check_every = 200;
    return options;
  });
}

TEST(SimulationTest, TheSameSeedIsTheSameHistory) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const Outcome first = RunHistory(seed, SmallHistory(seed));
    const Outcome second = RunHistory(seed, SmallHistory(seed));
    EXPECT_EQ(first.stats.events, second.stats.events);
    EXPECT_EQ(first.stats.commits, second.stats.commits);
    EXPECT_EQ(first.stats.lost_messages, second.stats.lost_messages);
  }
}

}  // namespace
}  // namespace lathe::simulation
