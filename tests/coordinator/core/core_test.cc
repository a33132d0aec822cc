#include "coordinator/core/core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/core/core_fixture.h"

namespace lathe {
namespace {

TEST(CoreTest, ALostWorkerEndsTheAttemptByTheLeaseAndIsNamed) {
  CoreDriver driver;
  driver.AddWorker("worker-1", 1);
  driver.AddWorker("worker-2", 1);
  driver.AddJob("job-1");
  driver.FinishPrepare("job-1");
  const auto gang = driver.Running("job-1");
  driver.Tick(absl::Seconds(10));
  driver.Beat("worker-1");
  driver.Tick(absl::Seconds(5));
  EXPECT_EQ(driver.core.fleet().Find(WorkerId("wrk-worker-2"))->state, WorkerState::kAlive);
  driver.Tick(absl::Milliseconds(1));
  EXPECT_EQ(driver.core.fleet().Find(WorkerId("wrk-worker-2"))->state, WorkerState::kLost);
  driver.End(gang[0], CoreDriver::Failure(EndCause::kPeerLost));
  const Job& job = driver.jobs["job-1"];
  EXPECT_EQ(job.attempt, 2);
  EXPECT_EQ(job.reason,
            "waits: 1 cpu slot free on 1 worker, needs 2; they have 1 in all: start "
            "more workers");
  EXPECT_THAT(driver.events["job-1"].back().message,
              testing::HasSubstr("rank 1 on worker-2: worker-2 lost: no heartbeat for 15s"));
}

TEST(CoreTest, TheSlotOfALostProcessIsFreeOnlyWhenItsWorkerSaysSo) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1);
  const Assignment old = driver.Running("job-1")[0];
  driver.Tick(absl::Seconds(16));
  ASSERT_TRUE(driver.Running("job-1").empty());
  driver.AddWorker("a", 1, {old.id});
  EXPECT_EQ(driver.Sent(Command::Kind::kCancel).back().id, old.id);
  EXPECT_TRUE(driver.Running("job-1").empty());
  driver.End(old, CoreDriver::Failure(EndCause::kCancelled));
  ASSERT_EQ(driver.Running("job-1").size(), 1U);
  EXPECT_EQ(driver.Running("job-1")[0].attempt, 2);
}

TEST(CoreTest, AReconnectWithinTheLeaseKeepsTheWork) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1);
  const Assignment before = driver.Running("job-1")[0];
  driver.core.Disconnect(WorkerId("wrk-a"), driver.sessions["wrk-a"]);
  driver.Tick(absl::Seconds(5));
  driver.AddWorker("a", 1, {before.id});
  driver.Beat("a");
  driver.Tick(absl::Seconds(10));
  EXPECT_EQ(driver.Running("job-1").at(0).id, before.id);
  EXPECT_TRUE(driver.Sent(Command::Kind::kCancel).empty());
}

TEST(CoreTest, AProcessThatIsMissingAfterAReconnectHasAGraceToReportItsEnd) {
  CoreDriver driver;
  driver.AddWorker("a", 2);
  driver.AddJob("job-1", 1, 5, "x");
  driver.AddJob("job-2", 1, 5, "y");
  const Assignment reported = driver.Running("job-1")[0];
  driver.AddWorker("a", 2, {});
  driver.End(reported, {.ok = true, .outputs = {{"train.shard", {"aa", 1}}}});
  EXPECT_EQ(driver.jobs["job-1"].stage, kStageTrain);
  driver.Beat("a");
  driver.Tick(absl::Seconds(5));
  EXPECT_EQ(driver.jobs["job-1"].attempt, 1);
  EXPECT_EQ(driver.jobs["job-2"].attempt, 2);
  EXPECT_EQ(driver.jobs["job-2"].failure_cause, "machine");
}

TEST(CoreTest, OrdersLostWithAConnectionAreSentAgain) {
  CoreDriver driver;
  driver.AddWorker("a", 2);
  driver.AddJob("job-1", 2);
  driver.FinishPrepare("job-1");
  const auto gang = driver.Running("job-1");
  Effects out;
  driver.core.OnRendezvous(gang[0], {"127.0.0.1", 7}, out);
  driver.Cancel("job-1");
  driver.commands.clear();
  driver.AddWorker("a", 2, {gang[0].id, gang[1].id});
  EXPECT_EQ(driver.Sent(Command::Kind::kCancel).size(), 2U);
  EXPECT_EQ(driver.Sent(Command::Kind::kRendezvous).size(), 1U);
}

TEST(CoreTest, AnOldSessionCannotRenewTheLease) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  const SessionId old = driver.sessions["wrk-a"];
  driver.AddWorker("a", 1);
  EXPECT_FALSE(driver.core.Heartbeat(WorkerId("wrk-a"), old, driver.now));
  EXPECT_TRUE(driver.core.Heartbeat(WorkerId("wrk-a"), driver.sessions["wrk-a"], driver.now));
  driver.core.Disconnect(WorkerId("wrk-a"), old);
  EXPECT_NE(driver.core.fleet().Find(WorkerId("wrk-a"))->session, 0);
}

TEST(CoreTest, NamesOfLiveWorkersAreUniqueAndInfoIsChecked) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  WorkerInfo info{.id = WorkerId("wrk-other"), .name = "a", .slots = 1};
  Effects out;
  EXPECT_EQ(driver.core.Register(info, 9, {}, driver.now, out).code(),
            absl::StatusCode::kAlreadyExists);
  info.name = "../x";
  EXPECT_EQ(driver.core.Register(info, 9, {}, driver.now, out).code(),
            absl::StatusCode::kInvalidArgument);
  info.name = "b";
  info.slots = -1;
  EXPECT_EQ(driver.core.Register(info, 9, {}, driver.now, out).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(CoreTest, AWorkerThatLeavesIsNotWaitedFor) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  driver.AddJob("job-1", 1);
  Effects out;
  driver.core.Leave(WorkerId("wrk-a"), driver.sessions["wrk-a"], driver.now, out);
  driver.Apply(std::move(out));
  EXPECT_EQ(driver.jobs["job-1"].attempt, 2);
  EXPECT_EQ(driver.core.fleet().Find(WorkerId("wrk-a"))->state, WorkerState::kLeft);
  driver.Tick(absl::Hours(2));
  EXPECT_EQ(driver.core.fleet().Find(WorkerId("wrk-a")), nullptr);
}

TEST(CoreTest, ErrandsNeedAWorkerAndEndByTheirDeadline) {
  CoreDriver driver;
  Effects out;
  const absl::Time deadline = driver.now + absl::Seconds(10);
  EXPECT_EQ(driver.core.StartErrand("task-1", "check", deadline, out).status().code(),
            absl::StatusCode::kUnavailable);
  driver.AddWorker("a", 1);
  const auto assignment = driver.core.StartErrand("task-1", "check", deadline, out);
  ASSERT_TRUE(assignment.ok());
  EXPECT_TRUE(driver.core.MayWrite("task-1", 1));
  driver.Apply(std::move(out));
  EXPECT_EQ(driver.core.fleet().Find(WorkerId("wrk-a"))->FreeSlots(), 1);
  driver.Tick(absl::Seconds(10));
  ASSERT_EQ(driver.errands.size(), 1U);
  EXPECT_EQ(driver.errands[0].ended.message, "check: took too long");
  EXPECT_FALSE(driver.core.MayWrite("task-1", 1));
  EXPECT_EQ(driver.Sent(Command::Kind::kCancel).size(), 1U);
}

TEST(CoreTest, TheEndOfAnErrandIsToldOnce) {
  CoreDriver driver;
  driver.AddWorker("a", 1);
  Effects out;
  const auto assignment =
      driver.core.StartErrand("task-1", "import", driver.now + absl::Minutes(1), out);
  driver.End(*assignment, {.ok = true, .payload = "p"});
  driver.End(*assignment, {.ok = true, .payload = "p"});
  ASSERT_EQ(driver.errands.size(), 1U);
  EXPECT_EQ(driver.errands[0].ended.payload, "p");
}

}  // namespace
}  // namespace lathe
