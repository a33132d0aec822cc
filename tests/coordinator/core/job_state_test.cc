#include "coordinator/core/job_state.h"

#include <gtest/gtest.h>

namespace lathe {
namespace {

static_assert(!CanMove(JobState::kFailed, JobState::kRunning));
static_assert(!CanMove(JobState::kSucceeded, JobState::kCancelled));
static_assert(!CanMove(JobState::kQueued, JobState::kSucceeded));
static_assert(!CanMove(JobState::kRunning, JobState::kCancelled));
static_assert(!CanMove(JobState::kCancelling, JobState::kSucceeded));
static_assert(CanMove(JobState::kQueued, JobState::kRunning));
static_assert(CanMove(JobState::kRunning, JobState::kQueued));
static_assert(CanMove(JobState::kPaused, JobState::kQueued));

constexpr JobState kAll[] = {JobState::kQueued,    JobState::kRunning,    JobState::kPausing,
                             JobState::kPaused,    JobState::kCancelling, JobState::kCancelled,
                             JobState::kSucceeded, JobState::kFailed};

TEST(JobStateTest, FinalStatesAreFinalAndOthersAreNot) {
  for (const JobState from : kAll) {
    int ways_out = 0;
    for (const JobState to : kAll) ways_out += CanMove(from, to) ? 1 : 0;
    EXPECT_EQ(ways_out == 0, IsFinal(from)) << JobStateName(from);
    EXPECT_FALSE(CanMove(from, from)) << JobStateName(from);
  }
}

}  // namespace
}  // namespace lathe
