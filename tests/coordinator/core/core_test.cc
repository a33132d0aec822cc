#include "coordinator/core/core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

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

// Random histories: whatever happens, the driver's promises hold (gapless events, growing attempts,
// final states final), no worker is over-committed, and once the faults stop every job ends.
class SimulationTest : public testing::TestWithParam<unsigned> {};

// What a user may ask of a job in any state, and a checkpoint of any running process.
void AskAtRandom(CoreDriver& driver, std::mt19937& random,
                 const std::optional<Assignment>& assignment) {
  const std::vector<const Job*> jobs = driver.core.UnfinishedJobs();
  if (jobs.empty()) return;
  const JobId id = jobs[random() % jobs.size()]->id;
  Effects out;
  switch (random() % 4) {
    case 3:
      if (assignment.has_value()) driver.core.Drain(assignment->worker, driver.now, out);
      break;
    case 0:
      driver.core.PauseJob(id, driver.now, out).IgnoreError();
      break;
    case 1:
      driver.core.ResumeJob(id, driver.now, out).IgnoreError();
      break;
    default:
      if (!assignment.has_value()) return;
      driver.core.OnCheckpoint(*assignment, static_cast<int64_t>(random() % 100),
                               {{"state", {"aa", 1}}}, driver.now, out);
  }
  driver.Apply(std::move(out));
}

void StepAtRandom(CoreDriver& driver, std::mt19937& random, int& next_job) {
  const std::string worker(1, static_cast<char>('a' + random() % 3));
  const auto pick = [&]() -> std::optional<Assignment> {
    if (driver.core.assignments().empty()) return std::nullopt;
    auto it = driver.core.assignments().begin();
    std::advance(it, random() % driver.core.assignments().size());
    return it->second;
  };
  switch (random() % 12) {
    case 10:
    case 11:
      AskAtRandom(driver, random, pick());
      break;
    case 0:
      if (next_job < 8)
        driver.AddJob(absl::StrCat("job-", next_job++), 1 + static_cast<int>(random() % 3), 100);
      break;
    case 1:
      driver.AddWorker(worker, 2);
      break;
    case 2:
      if (!driver.core.UnfinishedJobs().empty() && random() % 8 == 0)
        driver.Cancel(driver.core.UnfinishedJobs()[0]->id.value());
      break;
    case 3:
      if (const auto assignment = pick(); assignment.has_value())
        driver.End(*assignment, CoreDriver::Failure(static_cast<EndCause>(random() % 6)));
      break;
    case 4:
    case 5:
      if (const auto assignment = pick(); assignment.has_value())
        driver.End(*assignment, CoreDriver::Adapter());
      break;
    case 6:
      driver.core.Disconnect(WorkerId("wrk-" + worker), driver.sessions["wrk-" + worker]);
      break;
    default:
      driver.Beat(worker);
      driver.Tick(absl::Seconds(random() % 8));
  }
}

// Of a job when it was last looked at.
struct Seen {
  int64_t attempt = 0;
  int64_t checkpoint = 0;
};

// One live attempt; nothing of a paused job runs; a checkpoint is never older than the one before,
// unless an attempt could not use it.
void ExpectPromises(const CoreDriver& driver, std::map<std::string, Seen>& seen) {
  for (const auto& [id, assignment] : driver.core.assignments()) {
    const Job* job = driver.core.FindJob(JobId(assignment.owner));
    if (job == nullptr) continue;
    ASSERT_EQ(assignment.attempt, job->attempt) << assignment.owner;
    ASSERT_NE(job->state, JobState::kPaused) << assignment.owner;
    ASSERT_NE(job->state, JobState::kQueued) << assignment.owner;
  }
  for (const auto& [id, job] : driver.jobs) {
    ASSERT_TRUE(job.fallback.step < job.checkpoint.step || job.checkpoint.step == 0) << id;
    ASSERT_TRUE(job.attempt > seen[id].attempt || job.checkpoint.step >= seen[id].checkpoint) << id;
    seen[id] = {job.attempt, job.checkpoint.step};
  }
}

TEST_P(SimulationTest, PromisesHoldAndEveryJobEnds) {
  std::mt19937 random(GetParam());
  CoreDriver driver;
  int next_job = 0;
  std::map<std::string, Seen> seen;
  for (int i = 0; i < 400; ++i) {
    StepAtRandom(driver, random, next_job);
    ExpectPromises(driver, seen);
    if (HasFatalFailure()) return;
    for (const auto& [id, worker] : driver.core.fleet().workers()) {
      int held = 0;
      for (const auto& [assignment, slots] : worker.held) held += slots;
      ASSERT_LE(held, 2) << id.value() << " at step " << i;
    }
  }
  for (int i = 0; i < 200 && !driver.core.UnfinishedJobs().empty(); ++i) {
    for (const std::string name : {"a", "b", "c"}) {
      std::vector<AssignmentId> running;
      for (const auto& [id, assignment] : driver.core.assignments())
        if (assignment.worker.value() == "wrk-" + name) running.push_back(id);
      driver.AddWorker(name, 2, running);
    }
    for (const auto& [id, job] : driver.jobs)
      if (job.state == JobState::kPaused) driver.Resume(id);
    const auto assignments = driver.core.assignments();
    for (const auto& [id, assignment] : assignments)
      if (driver.core.assignments().contains(id)) driver.End(assignment, CoreDriver::Adapter());
    driver.Tick(absl::Seconds(1));
  }
  EXPECT_TRUE(driver.core.UnfinishedJobs().empty());
  EXPECT_EQ(driver.jobs.size(), static_cast<size_t>(next_job));
  for (const auto& [id, job] : driver.jobs) EXPECT_TRUE(IsFinal(job.state)) << id;
}

INSTANTIATE_TEST_SUITE_P(Seeds, SimulationTest, testing::Range(0U, 200U));

}  // namespace
}  // namespace lathe
