#include "common/fault/plan.h"

#include "gtest/gtest.h"

namespace lathe::fault {
namespace {

TEST(FaultPlanTest, APlanNamesPointActionAndHit) {
  const auto plan = ParsePlan("store.commit:kill@3");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->point, "store.commit");
  EXPECT_EQ(plan->action, Action::kKill);
  EXPECT_EQ(plan->hit, 3);
}

TEST(FaultPlanTest, TheFirstHitIsMeantUnlessANumberIsGiven) {
  const auto plan = ParsePlan("a.b:delay=250");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->action, Action::kDelay);
  EXPECT_EQ(plan->delay_ms, 250);
  EXPECT_EQ(plan->hit, 1);
}

TEST(FaultPlanTest, ErrorsHaveACode) {
  EXPECT_EQ(ParsePlan("p:error")->code, absl::StatusCode::kInternal);
  EXPECT_EQ(ParsePlan("p:error=14")->code, absl::StatusCode::kUnavailable);
  EXPECT_EQ(ParsePlan("p:nospace")->code, absl::StatusCode::kResourceExhausted);
}

TEST(FaultPlanTest, WhatIsNoPlanIsRefusedWithWhatIsAllowed) {
  for (const char* text : {"", "p", ":kill", "p:explode", "p:kill=3", "p:delay", "p:delay=x",
                           "p:kill@0", "p:kill@x", "p:error=17"}) {
    const auto plan = ParsePlan(text);
    ASSERT_FALSE(plan.ok()) << text;
    EXPECT_TRUE(absl::IsInvalidArgument(plan.status())) << text;
    EXPECT_NE(plan.status().message().find("kill, stop, delay=MS"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace lathe::fault
