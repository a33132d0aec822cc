#include "coordinator/core/deployments.h"

#include <gtest/gtest.h>

namespace lathe {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1000);

class DeploymentsTest : public testing::Test {
 protected:
  DeploymentsTest() {
    Assignment assignment;
    assignment.id = AssignmentId("asg-1");
    deployments_.Add("base", "task-1", assignment, kNow);
  }
  Deployments deployments_{absl::Seconds(10)};
};

TEST_F(DeploymentsTest, AnIdleOneIsTakenAfterTheTimeout) {
  EXPECT_EQ(deployments_.NextDeadline(), kNow + absl::Seconds(10));
  EXPECT_TRUE(deployments_.TakeIdle(kNow + absl::Seconds(9)).empty());
  EXPECT_EQ(deployments_.TakeIdle(kNow + absl::Seconds(10)), std::vector<std::string>{"task-1"});
  EXPECT_EQ(deployments_.Find("base"), nullptr);
}

TEST_F(DeploymentsTest, AChatKeepsItAndItsEndRestartsTheClock) {
  deployments_.OpenChat("base", "chat-1", kNow);
  EXPECT_EQ(deployments_.NextDeadline(), absl::InfiniteFuture());
  EXPECT_TRUE(deployments_.TakeIdle(kNow + absl::Hours(1)).empty());
  const auto assignment = deployments_.CloseChat("chat-1", kNow + absl::Hours(1));
  EXPECT_EQ(assignment->id.value(), "asg-1");
  EXPECT_EQ(deployments_.NextDeadline(), kNow + absl::Hours(1) + absl::Seconds(10));
  EXPECT_FALSE(deployments_.CloseChat("chat-1", kNow).has_value());
}

TEST_F(DeploymentsTest, TheEndOfItsProcessNamesItsChats) {
  deployments_.OpenChat("base", "chat-1", kNow);
  EXPECT_TRUE(deployments_.OnEnded("task-other").empty());
  EXPECT_EQ(deployments_.OnEnded("task-1"), std::vector<std::string>{"chat-1"});
  EXPECT_EQ(deployments_.size(), 0U);
}

}  // namespace
}  // namespace lathe
