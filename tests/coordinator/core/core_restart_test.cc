// A coordinator that is started again finds what runs, in the rows of the one before.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/core/core_fixture.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class CoreRestartTest : public ::testing::Test {
 protected:
  // job-1 trains with two ranks, on a and b; job-2 waits.
  CoreRestartTest() {
    before_.AddWorker("a", 1);
    before_.AddWorker("b", 1);
    before_.AddJob("job-1", 2, /*max_restarts=*/0);
    before_.FinishPrepare("job-1");
    before_.Meet(before_.Running("job-1")[0]);
    before_.AddJob("job-2", 1);
    ranks_ = before_.Running("job-1");
  }

  const Assignment& RankOn(const std::string& worker) const {
    return ranks_[0].worker.value() == "wrk-" + worker ? ranks_[0] : ranks_[1];
  }
  void BothComeBack() {
    after_.AddWorker("a", 1, {RankOn("a").id});
    after_.AddWorker("b", 1, {RankOn("b").id});
  }

  CoreDriver before_;
  std::vector<Assignment> ranks_;
  CoreDriver after_;
};

TEST_F(CoreRestartTest, ATrainingRunsOn) {
  after_.Restore(before_);
  EXPECT_THAT(after_.commands, IsEmpty());
  BothComeBack();
  EXPECT_THAT(after_.Sent(Command::Kind::kCancel), IsEmpty());
  EXPECT_EQ(after_.jobs["job-2"].state, JobState::kQueued) << "the slots are taken";
  after_.Tick(absl::Seconds(10));
  for (const Assignment& rank : ranks_) {
    EXPECT_NE(after_.core.Accept(rank.worker, rank.id, "job-1", 1), nullptr);
    after_.End(rank, CoreDriver::Adapter());
  }
  EXPECT_EQ(after_.jobs["job-1"].state, JobState::kSucceeded);
  EXPECT_EQ(after_.jobs["job-1"].attempt, 1);
  EXPECT_THAT(after_.jobs["job-1"].gang, IsEmpty());
  EXPECT_THAT(after_.Running("job-2"), SizeIs(1));
}

TEST_F(CoreRestartTest, RanksAreToldOnceMoreWhereTheyMeet) {
  after_.Restore(before_);
  BothComeBack();
  const std::vector<Assignment> told = after_.Sent(Command::Kind::kRendezvous);
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_EQ(told[0].rank, 1);
}

TEST_F(CoreRestartTest, ARankThatWasLostFromSightEndsTheAttemptAndIsNoFailure) {
  before_.Cancel("job-2");
  after_.Restore(before_);
  after_.AddWorker("a", 1);  // Without its rank: it never got the order, or its end was told.
  after_.AddWorker("b", 1, {RankOn("b").id});
  after_.Tick(absl::Seconds(4));
  EXPECT_EQ(after_.jobs["job-1"].attempt, 1) << "its end may be on the way";
  after_.Tick(absl::Seconds(1));
  EXPECT_EQ(after_.Sent(Command::Kind::kCancel).at(0).id, RankOn("b").id);
  after_.End(RankOn("b"), CoreDriver::Failure(EndCause::kPeerLost));
  EXPECT_EQ(after_.jobs["job-1"].attempt, 2);
  EXPECT_EQ(after_.jobs["job-1"].failures, 0);
  EXPECT_THAT(after_.events["job-1"].end()[-2].message, HasSubstr("the coordinator was restarted"));
  after_.FinishTrain("job-1");
  EXPECT_EQ(after_.jobs["job-1"].state, JobState::kSucceeded);
}

TEST_F(CoreRestartTest, AFailureOfTheUserStaysOneBesideARankThatWasLostFromSight) {
  after_.Restore(before_);
  after_.AddWorker("a", 1);
  after_.AddWorker("b", 1, {RankOn("b").id});
  after_.End(RankOn("b"), CoreDriver::Failure(EndCause::kUser, "the rows are empty"));
  after_.Tick(absl::Seconds(5));
  EXPECT_EQ(after_.jobs["job-1"].state, JobState::kFailed);
  EXPECT_EQ(after_.jobs["job-1"].error, "the rows are empty");
}

TEST_F(CoreRestartTest, AWorkerThatDoesNotComeBackWithinTheGraceIsLostAndNoFailureIsCounted) {
  after_.Restore(before_);
  after_.AddWorker("b", 1, {RankOn("b").id});
  EXPECT_LE(after_.core.NextDeadline(), after_.now + absl::Seconds(16));
  after_.Tick(absl::Seconds(15));
  EXPECT_THAT(after_.Running("job-1"), SizeIs(2)) << "within the grace";
  after_.Beat("b");
  after_.Tick(absl::Seconds(1));
  after_.End(RankOn("b"), CoreDriver::Failure(EndCause::kPeerLost));
  EXPECT_EQ(after_.jobs["job-1"].attempt, 2);
  EXPECT_EQ(after_.jobs["job-1"].failures, 0);
  const std::string lost = "the coordinator was restarted";
  EXPECT_THAT(after_.events["job-1"].end()[-1].message, HasSubstr(lost));
}

TEST_F(CoreRestartTest, ACancelIsToldToTheWorkersThatComeBack) {
  before_.Cancel("job-1");
  after_.Restore(before_);
  EXPECT_EQ(after_.jobs["job-1"].state, JobState::kCancelling);
  after_.commands.clear();
  BothComeBack();
  EXPECT_THAT(after_.Sent(Command::Kind::kCancel), SizeIs(2));
  for (const Assignment& rank : ranks_) {
    after_.End(rank, CoreDriver::Failure(EndCause::kCancelled));
  }
  EXPECT_EQ(after_.jobs["job-1"].state, JobState::kCancelled);
}

TEST_F(CoreRestartTest, APauseIsToldToTheWorkersThatComeBack) {
  before_.Pause("job-1");
  after_.Restore(before_);
  BothComeBack();
  EXPECT_THAT(after_.Sent(Command::Kind::kPause), SizeIs(2));
  const Ended at_a_step{.cause = EndCause::kCancelled,
                        .code = static_cast<int>(absl::StatusCode::kCancelled)};
  for (const Assignment& rank : ranks_) after_.End(rank, at_a_step);
  EXPECT_EQ(after_.jobs["job-1"].state, JobState::kPaused);
  EXPECT_EQ(after_.jobs["job-1"].attempt, 2);
}

TEST_F(CoreRestartTest, ATrainingThatIsMovingGoesOnElsewhereAndNoRestartIsCounted) {
  Effects out;
  before_.core.Drain(WorkerId("wrk-a"), before_.now, out);
  before_.Apply(std::move(out));
  after_.Restore(before_);
  BothComeBack();
  EXPECT_THAT(after_.Sent(Command::Kind::kPause), SizeIs(2));
  const Ended at_a_step{.cause = EndCause::kCancelled,
                        .code = static_cast<int>(absl::StatusCode::kCancelled)};
  for (const Assignment& rank : ranks_) after_.End(rank, at_a_step);
  EXPECT_EQ(after_.jobs["job-1"].attempt, 2);
  EXPECT_EQ(after_.jobs["job-1"].failures, 0);
  EXPECT_FALSE(after_.jobs["job-1"].moves);
}

TEST_F(CoreRestartTest, APreparationRunsOn) {
  CoreDriver before;
  before.AddWorker("a", 1);
  before.AddJob("job-1", 1);
  const Assignment prepare = before.Running("job-1").at(0);
  after_.Restore(before);
  after_.AddWorker("a", 1, {prepare.id});
  after_.FinishPrepare("job-1");
  EXPECT_EQ(after_.jobs["job-1"].stage, kStageTrain);
  EXPECT_EQ(after_.jobs["job-1"].attempt, 1);
}

TEST_F(CoreRestartTest, APreparationThatIsToPauseIsEnded) {
  CoreDriver before;
  before.AddWorker("a", 1);
  before.AddJob("job-1", 1);
  before.Pause("job-1");
  const Assignment prepare = before.Running("job-1").at(0);
  after_.Restore(before);
  after_.commands.clear();
  after_.AddWorker("a", 1, {prepare.id});
  EXPECT_EQ(after_.Sent(Command::Kind::kCancel).at(0).id, prepare.id);
  after_.End(prepare, CoreDriver::Failure(EndCause::kCancelled));
  EXPECT_EQ(after_.jobs["job-1"].state, JobState::kPaused);
}

TEST_F(CoreRestartTest, AProcessThatTheRowsDoNotKnowIsEnded) {
  after_.Restore(before_);
  after_.AddWorker("a", 1, {RankOn("a").id, AssignmentId("asg-old")});
  const std::vector<Assignment> cancelled = after_.Sent(Command::Kind::kCancel);
  ASSERT_THAT(cancelled, SizeIs(1));
  EXPECT_EQ(cancelled[0].id, AssignmentId("asg-old"));
}

TEST_F(CoreRestartTest, ATrainingThatStandsStillIsFoundByTheNextCoordinatorAsWell) {
  after_.Restore(before_);
  BothComeBack();
  for (int i = 0; i < 400 && after_.hangs.empty(); ++i) {
    after_.Beat("a");
    after_.Beat("b");
    after_.Tick(absl::Seconds(5));
  }
  ASSERT_THAT(after_.hangs, SizeIs(1));
  EXPECT_THAT(after_.hangs[0].workers, SizeIs(2));
}

}  // namespace
}  // namespace lathe
