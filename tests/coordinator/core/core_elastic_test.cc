// Trainings that go on with fewer ranks, and with more again.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/core/core_fixture.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;

class CoreElasticTest : public ::testing::Test {
 protected:
  void Start(int ranks, int min_ranks) {
    Job job;
    job.id = JobId("job-1");
    job.spec.name = "model";
    job.spec.ranks = ranks;
    job.spec.min_ranks = min_ranks;
    job.shard_key = "key";
    job.last_sequence = 1;
    driver_.jobs["job-1"] = job;
    Effects out;
    driver_.core.AddJob(job, driver_.now, out);
    driver_.Apply(std::move(out));
    driver_.FinishPrepare("job-1");
  }
  size_t NumRanks() { return driver_.Running("job-1").size(); }
  void Checkpoint(int64_t step) {
    Effects out;
    const Assignment rank0 = driver_.Running("job-1").at(0);
    driver_.core.OnCheckpoint(rank0, step, {{"state", {absl::StrCat("a", step), 1}}}, driver_.now,
                              out);
    driver_.Apply(std::move(out));
  }
  void EndGang() {
    Ended ended = CoreDriver::Failure(EndCause::kPeerLost, "stopped after step 7");
    ended.code = static_cast<int>(absl::StatusCode::kCancelled);
    for (const Assignment& rank : driver_.Running("job-1")) driver_.End(rank, ended);
  }
  const Job& job() { return driver_.jobs["job-1"]; }
  std::string LastEvent() { return driver_.events["job-1"].back().message; }

  CoreDriver driver_;
};

TEST_F(CoreElasticTest, AsManyRanksAsFitStartAndTheEventSaysSo) {
  driver_.AddWorker("a", 3);
  Start(4, 2);
  EXPECT_EQ(NumRanks(), 3);
  EXPECT_THAT(LastEvent(), HasSubstr("train starts with 3 of 4 ranks: rank 0 on a"));
  EXPECT_EQ(driver_.Running("job-1")[0].world_size, 3);
  driver_.FinishTrain("job-1");
  EXPECT_EQ(job().state, JobState::kSucceeded);
  EXPECT_EQ(job().adapter_sha256.size(), 3);
}

TEST_F(CoreElasticTest, WithFewerSlotsThanTheLeastItWaitsAndSaysWhy) {
  driver_.AddWorker("a", 1);
  Start(4, 2);
  EXPECT_EQ(NumRanks(), 0);
  EXPECT_EQ(job().reason,
            "waits: 1 cpu slot free on 1 worker, needs 4; they have 1 in all: start more workers, "
            "at least 2");
}

TEST_F(CoreElasticTest, ALostWorkerShrinksTheNextAttemptAndANewOneLetsItGrowAtACheckpoint) {
  driver_.AddWorker("a", 1);
  driver_.AddWorker("b", 1);
  Start(2, 1);
  EXPECT_EQ(NumRanks(), 2);
  Effects out;
  driver_.core.Leave(WorkerId("wrk-b"), driver_.sessions["wrk-b"], driver_.now, out);
  driver_.Apply(std::move(out));
  EndGang();
  EXPECT_EQ(NumRanks(), 1);
  EXPECT_EQ(job().attempt, 2);
  Checkpoint(5);
  EXPECT_EQ(NumRanks(), 1) << "nobody new is there";
  driver_.AddWorker("c", 1);
  EXPECT_TRUE(driver_.Sent(Command::Kind::kPause).empty()) << "not before a checkpoint";
  Checkpoint(6);
  EXPECT_EQ(driver_.Sent(Command::Kind::kPause).size(), 1);
  EXPECT_EQ(LastEvent(), "more slots are free: it goes on with more ranks");
  EndGang();
  EXPECT_EQ(NumRanks(), 2);
  EXPECT_EQ(job().attempt, 3);
  EXPECT_EQ(job().failures, 1) << "to grow is no failure";
  driver_.FinishTrain("job-1");
  EXPECT_EQ(job().state, JobState::kSucceeded);
}

TEST_F(CoreElasticTest, ItDoesNotGrowWhileAnotherJobWaits) {
  driver_.AddWorker("a", 1);
  Start(2, 1);
  driver_.AddJob("job-2", 3, 5, "key");
  driver_.AddWorker("b", 1);
  Checkpoint(5);
  EXPECT_TRUE(driver_.Sent(Command::Kind::kPause).empty());
  driver_.Cancel("job-2");
  Checkpoint(6);
  EXPECT_EQ(driver_.Sent(Command::Kind::kPause).size(), 1);
}

TEST_F(CoreElasticTest, WithoutALeastNumberItWaitsForAll) {
  driver_.AddWorker("a", 3);
  Start(4, 0);
  EXPECT_EQ(NumRanks(), 0);
}

}  // namespace
}  // namespace lathe
