#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/core/core_fixture.h"

namespace lathe {
namespace {

using testing::HasSubstr;

TEST(CoreJobsTest, AJobRunsPrepareThenTrainAndMakesAModel) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddWorker("b", 1);
  driver.AddJob("job-1");
  EXPECT_EQ(driver.jobs["job-1"].trained_parameters, 0);
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kRunning);
  driver.FinishPrepare("job-1");
  EXPECT_EQ(driver.jobs["job-1"].stage, kStageTrain);
  ASSERT_EQ(driver.Running("job-1").size(), 2U);
  EXPECT_NE(driver.Running("job-1")[0].worker, driver.Running("job-1")[1].worker);
  driver.FinishTrain("job-1");
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kSucceeded);
  EXPECT_EQ(driver.jobs["job-1"].adapter_sha256, (std::vector<std::string>{"same", "same"}));
  ASSERT_EQ(driver.models.size(), 1U);
  EXPECT_EQ(driver.models[0].name, "model-job-1");
  EXPECT_EQ(driver.models[0].parameters, 12);
  ASSERT_TRUE(driver.models[0].parity.has_value());
  EXPECT_EQ(driver.models[0].parity->positions, 16);
  EXPECT_EQ(driver.jobs["job-1"].trained_parameters, 12);
  EXPECT_EQ(driver.core.fleet().Find(WorkerId("wrk-a"))->FreeSlots(), 1);
}

TEST(CoreJobsTest, FullTuningMakesABaseModelThatKnowsWhereItCameFrom) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  Job job;
  job.id = JobId("job-1");
  job.spec.name = "tuned";
  job.spec.model = "tiny";
  job.spec.method = "full";
  job.shard_key = "key";
  job.last_sequence = 1;
  Effects out;
  driver.core.AddJob(job, driver.now, out);
  driver.Apply(std::move(out));
  driver.End(driver.Running("job-1").at(0), {.ok = true, .outputs = {{"train.shard", {"aa", 1}}}});
  driver.End(driver.Running("job-1").at(0), CoreDriver::Adapter());
  ASSERT_EQ(driver.models.size(), 1U);
  EXPECT_EQ(driver.models[0].kind, ModelKind::kBase);
  EXPECT_EQ(driver.models[0].base_model, "");
  EXPECT_EQ(driver.models[0].parent_model, "tiny");
  EXPECT_EQ(driver.models[0].method, "full");
  EXPECT_EQ(driver.models[0].job_id, "job-1");
}

TEST(CoreJobsTest, AnAdapterThatNobodyVerifiedFailsTheJob) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1);
  driver.FinishPrepare("job-1");
  Ended unverified = CoreDriver::Adapter();
  unverified.parity.reset();
  driver.End(driver.Running("job-1").at(0), unverified);
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kFailed);
  EXPECT_THAT(driver.jobs["job-1"].error, HasSubstr("without verifying"));
  EXPECT_TRUE(driver.models.empty());
}

TEST(CoreJobsTest, PrepareIsNeverDoneTwiceForTheSameKey) {
  CoreDriver driver;
  driver.AddWorker("a", 4);
  driver.AddJob("job-1", 1, 5, "key");
  driver.AddJob("job-2", 1, 5, "key");
  EXPECT_TRUE(driver.Running("job-2").empty());
  EXPECT_EQ(driver.jobs["job-2"].reason, "waits: job-1 prepares the same data");
  driver.FinishPrepare("job-1");
  ASSERT_EQ(driver.Running("job-2").size(), 1U);
  EXPECT_EQ(driver.Running("job-2")[0].role, kStageTrain);
  driver.AddJob("job-3", 1, 5, "key");
  EXPECT_EQ(driver.Running("job-3").at(0).role, kStageTrain);
}

TEST(CoreJobsTest, AKilledRankEndsTheAttemptAndTheSurvivorIsNotBlamed) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddWorker("b", 1);
  driver.AddJob("job-1");
  driver.FinishPrepare("job-1");
  const auto gang = driver.Running("job-1");
  driver.End(gang[0], CoreDriver::Failure(EndCause::kPeerLost, "rank 0 on a: peer lost"));
  EXPECT_EQ(driver.Sent(Command::Kind::kCancel).at(0).id, gang[1].id);
  EXPECT_EQ(driver.jobs["job-1"].attempt, 1) << "a slot is still taken";
  driver.End(gang[1],
             CoreDriver::Failure(EndCause::kMachine, "rank 1 on b: killed by signal 9 (Killed)"));
  EXPECT_EQ(driver.jobs["job-1"].attempt, 2);
  EXPECT_EQ(driver.jobs["job-1"].failure_cause, "machine");
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kRunning);
  const auto& events = driver.events["job-1"];
  EXPECT_EQ(events[events.size() - 2].message,
            "rank 1 on b: killed by signal 9 (Killed); attempt 1 ends, attempt 2 follows");
  EXPECT_EQ(events.back().message, "attempt 2: train starts: rank 0 on a, rank 1 on b");
  driver.FinishTrain("job-1");
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kSucceeded);
}

TEST(CoreJobsTest, AUserErrorEndsTheJobAtOnceWithItsMessage) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1");
  driver.End(driver.Running("job-1")[0],
             CoreDriver::Failure(EndCause::kUser, "no row has a trained token"));
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kFailed);
  EXPECT_EQ(driver.jobs["job-1"].error, "no row has a trained token");
  EXPECT_EQ(driver.jobs["job-1"].failure_cause, "user");
}

TEST(CoreJobsTest, GivesUpAfterMaxRestarts) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1, /*max_restarts=*/1);
  driver.FinishPrepare("job-1");
  driver.End(driver.Running("job-1")[0], CoreDriver::Failure(EndCause::kMachine));
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kRunning);
  driver.End(driver.Running("job-1")[0], CoreDriver::Failure(EndCause::kMachine));
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kFailed);
  EXPECT_THAT(driver.jobs["job-1"].error, HasSubstr("max_restarts is 1"));
}

TEST(CoreJobsTest, MessagesOfAnOlderAttemptCountForNothing) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1);
  driver.FinishPrepare("job-1");
  const Assignment old = driver.Running("job-1")[0];
  driver.End(old, CoreDriver::Failure(EndCause::kMachine));
  EXPECT_EQ(driver.core.Accept(old.worker, old.id, old.owner, old.attempt), nullptr);
  EXPECT_FALSE(driver.core.MayWrite("job-1", 1));
  EXPECT_TRUE(driver.core.MayWrite("job-1", 2));
  driver.End(old, CoreDriver::Adapter());
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kRunning);
  const Assignment present = driver.Running("job-1")[0];
  EXPECT_EQ(driver.core.Accept(WorkerId("wrk-b"), present.id, "job-1", 2), nullptr);
  EXPECT_EQ(driver.core.Accept(present.worker, present.id, "job-1", 1), nullptr);
  EXPECT_NE(driver.core.Accept(present.worker, present.id, "job-1", 2), nullptr);
}

TEST(CoreJobsTest, DifferentAdaptersOfTheRanksAreABug) {
  CoreDriver driver;
  driver.AddWorker("a", 2);
  driver.AddJob("job-1");
  driver.FinishPrepare("job-1");
  const auto gang = driver.Running("job-1");
  driver.End(gang[0], CoreDriver::Adapter("one"));
  driver.End(gang[1], CoreDriver::Adapter("other"));
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kFailed);
  EXPECT_EQ(driver.jobs["job-1"].failure_cause, "bug");
  EXPECT_TRUE(driver.models.empty());
}

TEST(CoreJobsTest, CancelWaitsForTheProcesses) {
  CoreDriver driver;
  driver.AddWorker("a", 2);
  driver.AddJob("job-1");
  driver.FinishPrepare("job-1");
  driver.Cancel("job-1");
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kCancelling);
  EXPECT_EQ(driver.Sent(Command::Kind::kCancel).size(), 2U);
  driver.Cancel("job-1");
  for (const Assignment& assignment : driver.Running("job-1"))
    driver.End(assignment, CoreDriver::Failure(EndCause::kCancelled));
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kCancelled);
}

TEST(CoreJobsTest, AJobThatWaitsIsPausedAtOnceAndWaitsAgainWhenItMayGoOn) {
  CoreDriver driver;
  driver.AddJob("job-1", 1);
  driver.Pause("job-1");
  driver.Pause("job-1");
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kPaused);
  EXPECT_EQ(driver.jobs["job-1"].reason, "paused; go on with: lathe jobs resume job-1");
  driver.AddWorker("a", 1);
  EXPECT_TRUE(driver.Running("job-1").empty());
  driver.Resume("job-1");
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kRunning);
  driver.Resume("job-1");
  EXPECT_EQ(driver.Running("job-1").size(), 1U);
}

TEST(CoreJobsTest, ATrainingIsPausedOnceItsRanksHaveEndedAndFreesItsSlots) {
  CoreDriver driver;
  driver.AddWorker("a", 2);
  driver.AddJob("job-1", 2);
  driver.FinishPrepare("job-1");
  const auto gang = driver.Running("job-1");
  driver.Meet(gang[0]);
  driver.Pause("job-1");
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kPausing);
  EXPECT_EQ(driver.Sent(Command::Kind::kPause).size(), 2U);
  Effects out;
  EXPECT_EQ(driver.core.ResumeJob(JobId("job-1"), driver.now, out).code(),
            absl::StatusCode::kFailedPrecondition);
  Ended stopped = CoreDriver::Failure(EndCause::kPeerLost, "stopped after step 7");
  stopped.code = static_cast<int>(absl::StatusCode::kCancelled);
  driver.End(gang[1], stopped);
  EXPECT_TRUE(driver.Sent(Command::Kind::kCancel).empty()) << "rank 0 still writes";
  Effects checkpoint;
  driver.core.OnCheckpoint(gang[0], 7, {{"state", {"aa", 1}}}, driver.now, checkpoint);
  driver.Apply(std::move(checkpoint));
  driver.End(gang[0], stopped);
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kPaused);
  EXPECT_EQ(driver.jobs["job-1"].attempt, 2);
  EXPECT_EQ(driver.jobs["job-1"].failures, 0);
  EXPECT_EQ(driver.events["job-1"].back().message, "paused after step 7");
  EXPECT_EQ(driver.core.fleet().Find(WorkerId("wrk-a"))->FreeSlots(), 2);
  driver.Resume("job-1");
  EXPECT_THAT(driver.events["job-1"].back().message, HasSubstr("goes on after step 7"));
  driver.FinishTrain("job-1");
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kSucceeded);
}

TEST(CoreJobsTest, ARankThatDiesWhileItsJobIsPausedEndsTheOthers) {
  CoreDriver driver;
  driver.AddWorker("a", 2);
  driver.AddJob("job-1", 2);
  driver.FinishPrepare("job-1");
  const auto gang = driver.Running("job-1");
  driver.Pause("job-1");
  driver.End(gang[1], CoreDriver::Failure(EndCause::kMachine, "killed"));
  EXPECT_EQ(driver.Sent(Command::Kind::kCancel).at(0).id, gang[0].id);
  driver.End(gang[0], CoreDriver::Failure(EndCause::kCancelled));
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kPaused);
}

TEST(CoreJobsTest, ATrainingThatEndsBeforeItIsPausedHasSucceeded) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1);
  driver.FinishPrepare("job-1");
  driver.Pause("job-1");
  driver.FinishTrain("job-1");
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kSucceeded);
}

TEST(CoreJobsTest, APreparationIsEndedByAPauseOrKeptIfItWasDone) {
  for (const bool done : {false, true}) {
    CoreDriver driver;
    driver.AddWorker("a", 1);
    driver.AddJob("job-1", 1);
    const Assignment prepare = driver.Running("job-1").at(0);
    driver.Pause("job-1");
    EXPECT_EQ(driver.Sent(Command::Kind::kCancel).size(), 1U);
    if (done) {
      driver.FinishPrepare("job-1");
    } else {
      driver.End(prepare, CoreDriver::Failure(EndCause::kCancelled));
    }
    EXPECT_EQ(driver.jobs["job-1"].state, JobState::kPaused);
    EXPECT_EQ(driver.jobs["job-1"].stage, done ? kStageTrain : kStagePrepare);
    driver.Resume("job-1");
    EXPECT_EQ(driver.Running("job-1").at(0).role, done ? kStageTrain : kStagePrepare);
  }
}

TEST(CoreJobsTest, AJobThatIsBeingPausedOrIsPausedCanBeCancelled) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1);
  driver.FinishPrepare("job-1");
  driver.Pause("job-1");
  driver.Cancel("job-1");
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kCancelling);
  Effects out;
  EXPECT_EQ(driver.core.PauseJob(JobId("job-1"), driver.now, out).code(),
            absl::StatusCode::kFailedPrecondition);
  driver.End(driver.Running("job-1").at(0), CoreDriver::Failure(EndCause::kCancelled));
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kCancelled);
  CoreDriver without_workers;
  without_workers.AddJob("job-2", 1);
  without_workers.Pause("job-2");
  EXPECT_EQ(without_workers.jobs["job-2"].state, JobState::kPaused);
  without_workers.Cancel("job-2");
  EXPECT_EQ(without_workers.jobs["job-2"].state, JobState::kCancelled);
}

TEST(CoreJobsTest, AProcessThatDoesNotEndHoldsItsSlotButNotTheJob) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1);
  driver.Cancel("job-1");
  for (int i = 0; i < 12; ++i) {
    driver.Beat("a");
    driver.Tick(absl::Seconds(6));
  }
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kCancelled);
  EXPECT_EQ(driver.core.fleet().Find(WorkerId("wrk-a"))->FreeSlots(), 0);
}

TEST(CoreJobsTest, AQueuedJobIsCancelledAtOnce) {
  CoreDriver driver;
  driver.AddJob("job-1");
  EXPECT_EQ(driver.jobs["job-1"].reason, "waits: no worker is connected, needs 1 cpu slot");
  driver.Cancel("job-1");
  EXPECT_EQ(driver.jobs["job-1"].state, JobState::kCancelled);
  Effects out;
  EXPECT_EQ(driver.core.CancelJob(JobId("job-1"), driver.now, out).code(),
            absl::StatusCode::kNotFound);
}

TEST(CoreJobsTest, FirstComeFirstServedButWhatCanNeverFitHoldsUpNobody) {
  CoreDriver driver;
  driver.AddWorker("a", 2);
  driver.AddJob("job-1", 1);
  driver.AddJob("job-2", 2);
  driver.AddJob("job-3", 8);
  driver.FinishPrepare("job-1");  // Trains on one slot now.
  driver.FinishPrepare("job-2");
  EXPECT_EQ(driver.jobs["job-2"].reason, "waits: 1 cpu slot free on 1 worker, needs 2");
  driver.AddJob("job-4", 1);
  EXPECT_EQ(driver.jobs["job-4"].reason, "waits: job-2 is before it");
  driver.FinishTrain("job-1");
  EXPECT_EQ(driver.Running("job-2").size(), 2U);
  driver.FinishTrain("job-2");
  driver.FinishPrepare("job-3");
  EXPECT_THAT(driver.jobs["job-3"].reason, HasSubstr("needs 8; they have 2 in all"));
  driver.FinishPrepare("job-4");
  EXPECT_EQ(driver.Running("job-4").size(), 1U);
}

TEST(CoreJobsTest, TheRendezvousOfRankZeroReachesTheOthersOnly) {
  CoreDriver driver;
  driver.AddWorker("a", 3);
  driver.AddJob("job-1", 3);
  driver.FinishPrepare("job-1");
  const auto gang = driver.Running("job-1");
  Effects out;
  driver.core.OnRendezvous(gang[1], {"127.0.0.1", 1}, out);
  EXPECT_TRUE(out.commands.empty()) << "only rank 0 has one";
  driver.core.OnRendezvous(gang[0], {"127.0.0.1", 1234}, out);
  ASSERT_EQ(out.commands.size(), 2U);
  for (const Command& command : out.commands) {
    EXPECT_GT(command.assignment.rank, 0);
    EXPECT_EQ(command.rendezvous.port, 1234);
  }
}

TEST(CoreJobsTest, TheHighestPriorityIsPlacedFirstThenWhoCameFirst) {
  CoreDriver driver;
  driver.AddJob("job-1", 1);
  driver.AddJob("job-2", 1, 5, "", /*priority=*/7);
  driver.AddJob("job-3", 1, 5, "", /*priority=*/7);
  driver.AddJob("job-4", 1, 5, "", /*priority=*/-1);
  driver.AddWorker("a", 1);
  for (const char* id : {"job-2", "job-3", "job-1", "job-4"}) {
    ASSERT_EQ(driver.Running(id).size(), 1U) << id;
    driver.FinishPrepare(id);
    driver.FinishTrain(id);
  }
}

TEST(CoreJobsTest, WhatRunsGoesOnBesideAJobOfHigherPriority) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1);
  driver.AddJob("job-2", 1, 5, "", /*priority=*/100);
  EXPECT_EQ(driver.Running("job-1").size(), 1U);
  driver.FinishPrepare("job-1");
  EXPECT_EQ(driver.Running("job-2").size(), 1U) << "between two stages the higher one comes first";
}

TEST(CoreJobsTest, AProjectHoldsNoMoreSlotsThanItsQuotaAndHoldsUpNobody) {
  CoreOptions options;
  options.quotas = {{"default", 1}};
  CoreDriver driver(options);
  driver.AddWorker("a", 4);
  driver.AddJob("job-1", 1);
  driver.AddJob("job-2", 1);
  EXPECT_EQ(driver.jobs["job-2"].reason, "waits: project 'default' holds 1 of its 1 slot, needs 1");
  driver.FinishPrepare("job-1");
  driver.FinishTrain("job-1");
  EXPECT_EQ(driver.Running("job-2").size(), 1U);
  CoreDriver after(options);
  after.Restore(driver);
  after.AddJob("job-3", 1);
  EXPECT_EQ(after.jobs["job-3"].reason, "waits: project 'default' holds 1 of its 1 slot, needs 1");
}

TEST(CoreJobsTest, NamesOfResultsAreReservedAndTheQueueIsBounded) {
  CoreOptions options;
  options.max_unfinished_jobs = 2;
  CoreDriver driver(options);
  const Job first = driver.AddJob("job-1");
  EXPECT_EQ(driver.core.CanAdd(first).code(), absl::StatusCode::kAlreadyExists);
  Job other = first;
  other.spec.name = "other";
  EXPECT_TRUE(driver.core.CanAdd(other).ok());
  driver.AddJob("job-2");
  EXPECT_EQ(driver.core.CanAdd(other).code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace lathe
