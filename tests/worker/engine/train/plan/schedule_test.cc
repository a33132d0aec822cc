#include "worker/engine/train/plan/schedule.h"

#include <gtest/gtest.h>

#include <vector>

namespace lathe {
namespace {

void ExpectRates(ScheduleKind kind, int64_t warmup, const std::vector<double>& expected) {
  const ScheduleOptions options{
      .kind = kind, .peak = 1e-3, .num_steps = 10, .num_warmup_steps = warmup};
  for (size_t step = 0; step < expected.size(); ++step) {
    EXPECT_NEAR(LearningRate(options, static_cast<int64_t>(step)), expected[step], 1e-15)
        << "step " << step;
  }
}

// The expected rates are what transformers 5.23.0 returns for 3 of 10 steps of warm-up.
TEST(LearningRateTest, CosineMatchesTransformers) {
  ExpectRates(ScheduleKind::kCosine, 3,
              {0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.0009504844339512095,
               0.0008117449009293668, 0.0006112604669781572, 0.00038873953302184284,
               0.00018825509907063325, 4.9515566048790485e-05});
}

TEST(LearningRateTest, LinearMatchesTransformers) {
  ExpectRates(ScheduleKind::kLinear, 3,
              {0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.0008571428571428571,
               0.0007142857142857143, 0.0005714285714285714, 0.00042857142857142855,
               0.0002857142857142857, 0.00014285714285714284});
}

TEST(LearningRateTest, ConstantMatchesTransformers) {
  ExpectRates(ScheduleKind::kConstant, 3,
              {0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.001, 0.001});
}

TEST(LearningRateTest, WithoutWarmUpTheFirstStepHasThePeak) {
  ExpectRates(ScheduleKind::kCosine, 0, {1e-3});
  ExpectRates(ScheduleKind::kLinear, 0, {1e-3, 0.9e-3});
}

TEST(LearningRateTest, WarmUpOverTheWholeRunNeverDecays) {
  ExpectRates(ScheduleKind::kCosine, 10, {0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4, 7e-4, 8e-4, 9e-4});
}

TEST(WarmupStepsTest, RoundsUp) {
  EXPECT_EQ(WarmupSteps(0.03, 90), 3);
  EXPECT_EQ(WarmupSteps(0.03, 10), 1);
  EXPECT_EQ(WarmupSteps(0, 10), 0);
  EXPECT_EQ(WarmupSteps(1, 10), 10);
}

}  // namespace
}  // namespace lathe
