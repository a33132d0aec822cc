#include "worker/agent/outbox.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace lathe::agent {
namespace {

class CountingProbe final : public AgentProbe {
 public:
  void OnUpdatesDropped(int64_t num) override { dropped += num; }
  int64_t dropped = 0;
};

pb::AssignmentUpdate Step(int64_t step, const std::string& id = "asg-1") {
  pb::AssignmentUpdate update;
  update.set_assignment_id(id);
  update.mutable_step()->set_step(step);
  return update;
}

pb::AssignmentUpdate Ended(const std::string& id) {
  pb::AssignmentUpdate update;
  update.set_assignment_id(id);
  update.mutable_ended()->set_ok(true);
  return update;
}

pb::AssignmentUpdate Phase(const std::string& name) {
  pb::AssignmentUpdate update;
  update.set_assignment_id("asg-1");
  update.mutable_phase()->set_name(name);
  return update;
}

class OutboxTest : public ::testing::Test {
 protected:
  int SendAll() {
    int num = 0;
    while (outbox_.Next().has_value()) ++num;
    return num;
  }
  CountingProbe probe_;
  Outbox outbox_{probe_};
};

TEST_F(OutboxTest, WhatNoHeartbeatHasConfirmedIsSentAgain) {
  outbox_.Push(Step(1));
  outbox_.Push(Ended("asg-1"));
  EXPECT_EQ(SendAll(), 2);
  const int64_t first = outbox_.NextHeartbeat();
  outbox_.Push(Step(2, "asg-2"));
  EXPECT_EQ(SendAll(), 1);
  outbox_.OnHeartbeatAnswer(first);
  EXPECT_TRUE(outbox_.EndedAssignments().empty());
  outbox_.Rewind();
  ASSERT_EQ(outbox_.Next()->step().step(), 2);
  EXPECT_FALSE(outbox_.Next().has_value());
}

TEST_F(OutboxTest, AnAnswerToAnEarlierHeartbeatConfirmsNothingLater) {
  const int64_t first = outbox_.NextHeartbeat();
  outbox_.Push(Ended("asg-1"));
  SendAll();
  outbox_.NextHeartbeat();
  outbox_.OnHeartbeatAnswer(first);
  EXPECT_TRUE(outbox_.EndedAssignments().contains("asg-1"));
}

TEST_F(OutboxTest, AnAnswerFromBeforeARewindConfirmsNothing) {
  outbox_.Push(Ended("asg-1"));
  SendAll();
  const int64_t sequence = outbox_.NextHeartbeat();
  outbox_.Rewind();
  outbox_.OnHeartbeatAnswer(sequence);
  EXPECT_TRUE(outbox_.EndedAssignments().contains("asg-1"));
}

TEST_F(OutboxTest, WhenFullTheOldestStepsGoAndNoEndDoes) {
  outbox_.Push(Ended("asg-0"));
  for (size_t i = 1; i <= Outbox::kMaxUpdates + 9; ++i) outbox_.Push(Step(static_cast<int>(i)));
  outbox_.Push(Ended("asg-9"));
  EXPECT_EQ(outbox_.size(), Outbox::kMaxUpdates);
  EXPECT_EQ(probe_.dropped, 11);
  EXPECT_TRUE(outbox_.Next()->has_ended());
  EXPECT_EQ(outbox_.Next()->step().step(), 12);
  EXPECT_EQ(outbox_.EndedAssignments().size(), 2u);
}

TEST_F(OutboxTest, ANewerPhaseReplacesOneThatWaitsButNotOneThatWasSent) {
  outbox_.Push(Phase("load"));
  outbox_.Push(Step(1));
  outbox_.Push(Phase("train"));
  EXPECT_EQ(outbox_.size(), 2u);
  EXPECT_EQ(outbox_.Next()->phase().name(), "train");
  outbox_.Push(Phase("export"));
  EXPECT_EQ(outbox_.size(), 3u);
}

TEST_F(OutboxTest, APhaseDoesNotOvertakeAnEnd) {
  outbox_.Push(Phase("train"));
  outbox_.Push(Ended("asg-1"));
  outbox_.Push(Phase("load"));
  EXPECT_EQ(outbox_.Next()->phase().name(), "train");
  EXPECT_TRUE(outbox_.Next()->has_ended());
}

}  // namespace
}  // namespace lathe::agent
