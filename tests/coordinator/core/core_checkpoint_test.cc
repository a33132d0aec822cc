// Where a job goes on: after a failure, and when a worker is being stopped.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/core/core_fixture.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;

TEST(CoreCheckpointTest, TheNextAttemptGoesOnFromTheNewestCheckpoint) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1);
  driver.FinishPrepare("job-1");
  const Assignment rank0 = driver.Running("job-1").at(0);
  const FileTree older = {{"state", {"aa", 1}}};
  const FileTree between = {{"state", {"ab", 1}}};
  const FileTree newer = {{"state", {"bb", 1}}};
  const auto checkpoint = [&](const Assignment& from, int64_t step, const FileTree& files) {
    Effects out;
    driver.core.OnCheckpoint(from, step, files, driver.now, out);
    const FileTree dropped = out.changes.empty() ? FileTree() : out.changes.back().dropped;
    driver.Apply(std::move(out));
    return dropped;
  };
  EXPECT_TRUE(checkpoint(rank0, 100, older).empty());
  EXPECT_EQ(driver.events["job-1"].back().message, "checkpoint after step 100");
  const size_t num_events = driver.events["job-1"].size();
  EXPECT_TRUE(checkpoint(rank0, 100, newer).empty()) << "sent again after a broken connection";
  EXPECT_EQ(driver.events["job-1"].size(), num_events);
  EXPECT_TRUE(checkpoint(rank0, 150, between).empty()) << "the one before is kept as well";
  EXPECT_EQ(checkpoint(rank0, 200, newer), older) << "nobody needs it any more";
  driver.End(rank0, CoreDriver::Failure(EndCause::kMachine, "rank 0 on a: killed"));
  EXPECT_EQ(driver.jobs["job-1"].attempt, 2);
  EXPECT_EQ(driver.jobs["job-1"].checkpoint.step, 200);
  EXPECT_EQ(driver.jobs["job-1"].checkpoint.files, newer);
  EXPECT_EQ(driver.events["job-1"].back().message,
            "attempt 2: train starts: rank 0 on a; goes on after step 200");
  EXPECT_EQ(driver.core.Accept(rank0.worker, rank0.id, rank0.owner, 1), nullptr)
      << "the first attempt writes nothing any more";
  Ended done = CoreDriver::Adapter();
  done.resumed_step = 200;
  done.resume_verified = true;
  done.ledger = "00000000000000ff";
  driver.End(driver.Running("job-1").at(0), done);
  const Job& job = driver.jobs["job-1"];
  EXPECT_EQ(job.state, JobState::kSucceeded);
  EXPECT_EQ(job.resumed_step, 200);
  EXPECT_TRUE(job.resume_verified);
  EXPECT_EQ(job.ledger, "00000000000000ff");
  EXPECT_TRUE(job.checkpoint.files.empty() && job.fallback.files.empty());
  EXPECT_EQ(driver.dropped, FileTree({older[0], newer[0], between[0]}));
}

TEST(CoreCheckpointTest, ADiskWithoutSpacePausesTheJobWithTheReasonAndCostsNoRestart) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddWorker("b", 1);
  driver.AddJob("job-1", 2, /*max_restarts=*/0);
  driver.FinishPrepare("job-1");
  const auto gang = driver.Running("job-1");
  driver.End(gang[1], CoreDriver::Failure(EndCause::kPeerLost, "rank 1 on b: peer lost"));
  driver.End(gang[0], CoreDriver::Failure(EndCause::kDisk, "rank 0 on a: no space"));
  const Job& job = driver.jobs["job-1"];
  EXPECT_EQ(job.state, JobState::kPaused);
  EXPECT_EQ(job.failure_cause, "disk");
  EXPECT_EQ(job.reason,
            "rank 0 on a: no space; free some space and go on with: lathe jobs resume job-1");
  EXPECT_EQ(driver.events["job-1"].back().message, "rank 0 on a: no space");
  driver.Resume("job-1");
  driver.FinishTrain("job-1");
  EXPECT_EQ(job.state, JobState::kSucceeded);
  EXPECT_EQ(job.attempt, 2);
}

TEST(CoreCheckpointTest, ACheckpointThatCannotBeUsedIsGivenUpForTheOneBeforeAndThenForTheStart) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddWorker("b", 1);
  driver.AddJob("job-1", 2);
  driver.FinishPrepare("job-1");
  const FileTree older = {{"state", {"aa", 1}}};
  const FileTree newer = {{"state", {"bb", 1}}};
  Effects saved;
  const Assignment rank0 = driver.Running("job-1").at(0);
  EXPECT_TRUE(driver.core.OnCheckpoint(rank0, 100, older, driver.now, saved));
  EXPECT_TRUE(driver.core.OnCheckpoint(rank0, 200, newer, driver.now, saved));
  driver.Apply(std::move(saved));
  const auto fail = [&](EndCause cause, const std::string& message) {
    const auto gang = driver.Running("job-1");
    driver.End(gang.at(0), CoreDriver::Failure(EndCause::kPeerLost, "rank 0 on a: peer lost"));
    driver.End(gang.at(1), CoreDriver::Failure(cause, message));
    return driver.events["job-1"].back().message;
  };
  EXPECT_THAT(fail(EndCause::kMachine, "killed"), HasSubstr("goes on after step 200"));
  EXPECT_TRUE(driver.commands.at(driver.commands.size() - 3).keep_checkpoint)
      << "of the other rank, before two starts";
  EXPECT_THAT(fail(EndCause::kCheckpoint, "rank 1 on b: checkpoint: is cut"),
              HasSubstr("goes on after step 100"));
  const auto& events = driver.events["job-1"];
  EXPECT_EQ(events[events.size() - 2].message,
            "rank 1 on b: checkpoint: is cut; the checkpoint after step 200 is given up; attempt 2 "
            "ends, attempt 3 follows");
  EXPECT_EQ(driver.dropped, newer);
  EXPECT_EQ(driver.jobs["job-1"].checkpoint.files, older);
  EXPECT_EQ(fail(EndCause::kCheckpoint, "checkpoint: is not there"),
            "attempt 4: train starts: rank 0 on a, rank 1 on b");
  EXPECT_EQ(driver.jobs["job-1"].checkpoint.step, 0);
  EXPECT_EQ(driver.dropped, FileTree({newer[0], older[0]}));
  driver.FinishTrain("job-1");
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kSucceeded);
}

TEST(CoreCheckpointTest, ATrainingOnAWorkerThatIsBeingStoppedGoesOnElsewhereAndNoRestartIsCounted) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddWorker("b", 1);
  driver.AddWorker("c", 1);
  driver.AddJob("job-1", 2, /*max_restarts=*/0);
  driver.FinishPrepare("job-1");
  const auto gang = driver.Running("job-1");
  driver.Meet(gang[0]);
  const auto drain = [&] {
    Effects out;
    driver.core.Drain(gang[1].worker, driver.now, out);
    driver.Apply(std::move(out));
  };
  drain();
  drain();  // Every heartbeat says it.
  ASSERT_EQ(driver.Sent(Command::Kind::kPause).size(), 2U) << "each rank, once";
  EXPECT_EQ(driver.events["job-1"].back().message, "b is being stopped");
  Effects saved;
  driver.core.OnCheckpoint(gang[0], 7, {{"state", {"aa", 1}}}, driver.now, saved);
  driver.Apply(std::move(saved));
  for (const Assignment& rank : gang) {
    Ended ended = CoreDriver::Failure(EndCause::kPeerLost, "stopped after step 7 of 9");
    ended.code = static_cast<int>(absl::StatusCode::kCancelled);
    driver.End(rank, ended);
  }
  const Job& job = driver.jobs["job-1"];
  EXPECT_EQ(job.state, JobState::kRunning);
  EXPECT_EQ(job.attempt, 2);
  EXPECT_EQ(job.failures, 0);
  const auto& events = driver.events["job-1"];
  EXPECT_EQ(events[events.size() - 2].message,
            "attempt 1 ends after step 7, attempt 2 follows elsewhere");
  EXPECT_EQ(events.back().message,
            "attempt 2: train starts: rank 0 on a, rank 1 on c; goes on after step 7");
  EXPECT_TRUE(driver.Sent(Command::Kind::kCancel).empty());
}

TEST(CoreCheckpointTest, ARankThatWouldWaitForAMeetingThatNeverComesIsEnded) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddWorker("b", 1);
  driver.AddJob("job-1", 2);
  driver.FinishPrepare("job-1");
  const auto gang = driver.Running("job-1");
  Effects out;
  driver.core.Drain(gang[0].worker, driver.now, out);
  driver.Apply(std::move(out));
  Ended ended = CoreDriver::Failure(EndCause::kCancelled, "the worker stops");
  ended.code = static_cast<int>(absl::StatusCode::kCancelled);
  driver.End(gang[0], ended);
  ASSERT_EQ(driver.Sent(Command::Kind::kCancel).size(), 1U) << "rank 0 never said where to meet";
  EXPECT_EQ(driver.Sent(Command::Kind::kCancel)[0].id, gang[1].id);
  driver.End(gang[1], ended);
  EXPECT_EQ(driver.jobs["job-1"].attempt, 2);
  EXPECT_EQ(driver.jobs["job-1"].failures, 0);
}

TEST(CoreCheckpointTest, APreparationOnAWorkerThatIsBeingStoppedIsDoneAnewElsewhere) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1, /*max_restarts=*/0);
  const Assignment prepare = driver.Running("job-1").at(0);
  Effects out;
  driver.core.Drain(prepare.worker, driver.now, out);
  driver.Apply(std::move(out));
  ASSERT_EQ(driver.Sent(Command::Kind::kCancel).size(), 1U);
  Ended ended = CoreDriver::Failure(EndCause::kCancelled, "cancelled");
  ended.code = static_cast<int>(absl::StatusCode::kCancelled);
  driver.End(prepare, ended);
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kQueued);
  EXPECT_THAT(driver.jobs["job-1"].reason, HasSubstr("no worker is connected"));
  driver.AddWorker("b", 1);
  EXPECT_EQ(driver.Running("job-1").at(0).role, kStagePrepare);
}

TEST(CoreCheckpointTest, ARankThatIsKilledWhileItsWorkerIsBeingStoppedIsAFailure) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1);
  driver.FinishPrepare("job-1");
  Effects out;
  driver.core.Drain(driver.Running("job-1").at(0).worker, driver.now, out);
  driver.Apply(std::move(out));
  driver.End(driver.Running("job-1").at(0), CoreDriver::Failure(EndCause::kMachine, "killed"));
  EXPECT_EQ(driver.jobs["job-1"].failures, 1);
}

}  // namespace
}  // namespace lathe
