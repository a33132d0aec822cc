// What becomes of a training that stands still.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/core/core_fixture.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;

class CoreHangTest : public ::testing::Test {
 protected:
  // Rank 0 on a, rank 1 on b; c is free.
  CoreHangTest() {
    for (const char* name : {"a", "b", "c"}) driver_.AddWorker(name, 1);
    driver_.AddJob("job-1", 2);
    driver_.FinishPrepare("job-1");
    gang_ = driver_.Running("job-1");
    for (const int rank : {0, 1}) Say(rank, "evaluate", 1, 0);
    Pass(absl::Seconds(1));
    for (const int rank : {0, 1}) Say(rank, "train", 2, 0);
    Pass(absl::Seconds(1));
    Say(0, "reduce", 3, 1);
  }

  void Say(int rank, const std::string& phase, int64_t counter, int64_t collective) {
    driver_.core.OnProgress(gang_[static_cast<size_t>(rank)], phase, counter, collective,
                            driver_.now);
  }

  // Workers stay in touch meanwhile.
  void Pass(absl::Duration time) {
    driver_.now += time;
    for (const char* name : {"a", "b", "c"}) driver_.Beat(name);
    driver_.Tick(absl::ZeroDuration());
  }

  const Job& job() { return driver_.jobs["job-1"]; }

  CoreDriver driver_;
  std::vector<Assignment> gang_;
};

TEST_F(CoreHangTest, TheRankThatTheOthersWaitForIsEndedAndTheJobGoesOnElsewhere) {
  Pass(absl::Seconds(58));
  EXPECT_EQ(job().state, JobState::kRunning);
  EXPECT_EQ(driver_.core.NextDeadline(), driver_.now + absl::Seconds(1));
  Pass(absl::Seconds(1));
  const std::vector<Assignment> told = driver_.Sent(Command::Kind::kCancel);
  ASSERT_EQ(told.size(), 2) << "the survivor waits in vain";
  EXPECT_EQ(told[0].rank, 1);
  EXPECT_TRUE(driver_.commands.back().diagnose);
  ASSERT_EQ(driver_.hangs.size(), 1);
  EXPECT_EQ(driver_.hangs[0].hang.rank, 1);
  EXPECT_EQ(driver_.hangs[0].ranks[0].phase, "reduce");
  driver_.End(gang_[0], CoreDriver::Failure(EndCause::kCancelled, "cancelled"));
  EXPECT_EQ(job().attempt, 2);
  EXPECT_EQ(job().failure_cause, "machine");
  EXPECT_THAT(driver_.events["job-1"][driver_.events["job-1"].size() - 2].message,
              HasSubstr("rank 1 on b: did not enter collective 1: it made no progress for 60 s in "
                        "phase train; attempt 1 ends"));
  for (const Assignment& next : driver_.Running("job-1")) {
    EXPECT_NE(next.worker.value(), "wrk-b") << "the hung process still has its slot";
  }
  driver_.End(gang_[1], CoreDriver::Failure(EndCause::kCancelled, "killed"));
  driver_.FinishTrain("job-1");
  EXPECT_EQ(job().state, JobState::kSucceeded);
}

TEST_F(CoreHangTest, AWorkerWhoseMachineFailedAJobTwiceIsLeftOutWhereOthersCanHoldIt) {
  for (int i = 0; i < 2; ++i) {
    const auto gang = driver_.Running("job-1");
    ASSERT_EQ(gang[1].worker.value(), "wrk-b");
    driver_.End(gang[1], CoreDriver::Failure(EndCause::kMachine, "killed"));
    driver_.End(gang[0], CoreDriver::Failure(EndCause::kPeerLost, "peer lost"));
  }
  const auto on_workers = [&] {
    std::set<std::string> names;
    for (const Assignment& one : driver_.Running("job-1")) names.insert(one.worker.value());
    return names;
  };
  EXPECT_EQ(on_workers(), (std::set<std::string>{"wrk-a", "wrk-c"}));
  Effects out;
  driver_.core.Leave(WorkerId("wrk-c"), driver_.sessions["wrk-c"], driver_.now, out);
  driver_.Apply(std::move(out));
  driver_.End(driver_.Running("job-1").at(0), CoreDriver::Failure(EndCause::kPeerLost, "lost"));
  EXPECT_EQ(on_workers(), (std::set<std::string>{"wrk-a", "wrk-b"})) << "better than to wait";
}

TEST_F(CoreHangTest, ProgressMovesTheDeadline) {
  Pass(absl::Seconds(40));
  Say(1, "train", 3, 0);
  Pass(absl::Seconds(40));
  EXPECT_EQ(job().state, JobState::kRunning);
  EXPECT_TRUE(driver_.hangs.empty());
}

TEST_F(CoreHangTest, TheSameSaidAgainIsNoProgress) {
  Pass(absl::Seconds(40));
  Say(1, "train", 2, 0);
  Say(1, "evaluate", 1, 0);
  Pass(absl::Seconds(19));
  EXPECT_EQ(driver_.hangs.size(), 1);
}

TEST_F(CoreHangTest, QuickEvaluationsSayNothingOfTheFirstMicroBatch) {
  const auto driver = std::make_unique<CoreDriver>();
  driver->AddWorker("a", 1);
  driver->AddJob("job-1", 1);
  driver->FinishPrepare("job-1");
  const Assignment rank = driver->Running("job-1").at(0);
  for (const int i : {1, 2, 3}) {
    driver->core.OnProgress(rank, i == 3 ? "train" : "evaluate", i, 0, driver->now);
    driver->now += absl::Seconds(1);
  }
  driver->now += absl::Minutes(5);
  driver->Beat("a");
  driver->Tick(absl::ZeroDuration());
  EXPECT_TRUE(driver->hangs.empty());
}

TEST_F(CoreHangTest, ATrainingThatIsBeingPausedHasOtherDeadlines) {
  driver_.Pause("job-1");
  Pass(absl::Seconds(61));
  EXPECT_TRUE(driver_.hangs.empty());
}

TEST_F(CoreHangTest, ARankThatHasEndedIsNotWaitedFor) {
  Say(0, "train", 4, 9);
  Say(1, "verify", 4, 9);
  driver_.End(gang_[0], CoreDriver::Adapter());
  Pass(absl::Seconds(61));
  EXPECT_TRUE(driver_.hangs.empty());
  Pass(absl::Minutes(30));
  ASSERT_EQ(driver_.hangs.size(), 1);
  EXPECT_EQ(driver_.hangs[0].hang.rank, 1);
}

}  // namespace
}  // namespace lathe
