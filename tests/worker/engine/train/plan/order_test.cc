#include "worker/engine/train/plan/order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "worker/engine/train/plan/random.h"

namespace lathe {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAreArray;

std::vector<uint32_t> Identity(size_t n) {
  std::vector<uint32_t> all(n);
  std::iota(all.begin(), all.end(), 0U);
  return all;
}

TEST(CounterRandomTest, MatchesThePublishedSplitMix64Sequence) {
  CounterRandom random(1234567);
  EXPECT_EQ(random.Next(), 6457827717110365317U);
  EXPECT_EQ(random.Next(), 3203168211198807973U);
  EXPECT_EQ(random.Next(), 9817491932198370423U);
}

TEST(CounterRandomTest, BelowStaysInRangeAndReachesAllValues) {
  CounterRandom random(7);
  std::vector<int> counts(5);
  for (int i = 0; i < 5000; ++i) ++counts[random.Below(5)];
  for (const int count : counts) EXPECT_NEAR(count, 1000, 150);
}

TEST(MixKeyTest, DependsOnEveryPartAndOnTheirOrder) {
  EXPECT_NE(MixKey({1, 2}), MixKey({2, 1}));
  EXPECT_NE(MixKey({1, 2}), MixKey({1, 2, 0}));
  EXPECT_NE(MixKey({0}), MixKey({0, 0}));
}

TEST(EpochOrderTest, IsAPermutation) {
  EXPECT_THAT(EpochOrder(1, 0, 100), UnorderedElementsAreArray(Identity(100)));
}

TEST(EpochOrderTest, IsAPureFunctionOfSeedAndEpoch) {
  EXPECT_EQ(EpochOrder(1, 2, 50), EpochOrder(1, 2, 50));
  EXPECT_NE(EpochOrder(1, 2, 50), EpochOrder(1, 3, 50));
  EXPECT_NE(EpochOrder(1, 2, 50), EpochOrder(2, 2, 50));
}

TEST(EpochOrderTest, PutsEveryRowEverywhereEquallyOften) {
  std::vector<int> first(4);
  for (uint64_t seed = 0; seed < 4000; ++seed) ++first[EpochOrder(seed, 0, 4)[0]];
  for (const int count : first) EXPECT_NEAR(count, 1000, 120);
}

TEST(EpochOrderTest, KeepsItsBits) {
  // Resumed jobs and old results depend on this order: a change needs a new spec version.
  EXPECT_THAT(EpochOrder(1, 0, 8), ElementsAre(6, 2, 1, 4, 7, 5, 3, 0));
}

TEST(RowOrderTest, LastBatchOfAnEpochIsShort) {
  RowOrder order({.seed = 3, .epochs = 2, .batch_size = 4, .num_rows = 10});
  EXPECT_EQ(order.steps_per_epoch(), 3);
  EXPECT_EQ(order.num_steps(), 6);
  EXPECT_EQ(order.RowsOfStep(2).size(), 2U);
  EXPECT_EQ(order.RowsOfStep(5).size(), 2U);
}

TEST(RowOrderTest, EachEpochVisitsEveryRowOnce) {
  RowOrder order({.seed = 3, .epochs = 2, .batch_size = 4, .num_rows = 10});
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    std::vector<uint32_t> seen;
    for (int64_t step = 3 * epoch; step < 3 * epoch + 3; ++step) {
      const std::vector<uint32_t> rows = order.RowsOfStep(step);
      seen.insert(seen.end(), rows.begin(), rows.end());
    }
    EXPECT_EQ(seen, EpochOrder(3, epoch, 10));
  }
}

TEST(RowOrderTest, StepsMayBeAskedInAnyOrder) {
  RowOrder forward({.seed = 3, .epochs = 2, .batch_size = 4, .num_rows = 10});
  RowOrder jump({.seed = 3, .epochs = 2, .batch_size = 4, .num_rows = 10});
  const std::vector<uint32_t> last = jump.RowsOfStep(5);
  const std::vector<uint32_t> first = jump.RowsOfStep(0);
  EXPECT_EQ(first, forward.RowsOfStep(0));
  EXPECT_EQ(last, forward.RowsOfStep(5));
}

TEST(RowOrderTest, EpochIsAFraction) {
  const RowOrder order({.seed = 3, .epochs = 2, .batch_size = 4, .num_rows = 16});
  EXPECT_DOUBLE_EQ(order.EpochAfter(6), 1.5);
}

}  // namespace
}  // namespace lathe
