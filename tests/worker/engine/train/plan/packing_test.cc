#include "worker/engine/train/plan/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "worker/engine/train/plan/order.h"
#include "worker/engine/train/plan/random.h"
#include "worker/engine/train/plan/step_plan.h"

namespace lathe {
namespace {

using ::testing::ElementsAre;

using Bins = std::vector<std::vector<uint32_t>>;

TEST(PackStepTest, GivesTwoMicroBatchesEvenWhenAllFitsInOne) {
  const std::vector<int64_t> lengths = {3, 5, 4};
  EXPECT_EQ(PackStep(lengths, 1000).size(), 2U);
}

TEST(PackStepTest, RoundsUpToAPowerOfTwo) {
  const std::vector<int64_t> lengths(20, 10);
  EXPECT_EQ(PackStep(lengths, 100).size(), 2U);
  EXPECT_EQ(PackStep(lengths, 99).size(), 4U);
  EXPECT_EQ(PackStep(lengths, 50).size(), 4U);
  EXPECT_EQ(PackStep(lengths, 40).size(), 8U);
}

TEST(PackStepTest, NeverHasMoreMicroBatchesThanRows) {
  EXPECT_EQ(PackStep(std::vector<int64_t>{500}, 16).size(), 1U);
  EXPECT_EQ(PackStep(std::vector<int64_t>{500, 500, 500}, 16).size(), 3U);
}

TEST(PackStepTest, LongestRowGoesToTheLightestMicroBatch) {
  const std::vector<int64_t> lengths = {1, 9, 2, 8, 3};
  // 9 | 8; 3 -> second (11); 2 -> first (11); 1 -> first (tie).
  EXPECT_EQ(PackStep(lengths, 1000), (Bins{{0, 1, 2}, {3, 4}}));
}

TEST(PackStepTest, EqualLengthsKeepTheirOrder) {
  EXPECT_EQ(PackStep(std::vector<int64_t>{4, 4, 4, 4}, 1000), (Bins{{0, 2}, {1, 3}}));
}

TEST(PackStepTest, HoldsEveryRowOnceAndBalances) {
  CounterRandom random(5);
  std::vector<int64_t> lengths(64);
  for (int64_t& length : lengths) length = static_cast<int64_t>(1 + random.Below(200));
  std::vector<int> seen(64);
  std::vector<int64_t> loads;
  for (const auto& bin : PackStep(lengths, 1024)) {
    EXPECT_TRUE(std::is_sorted(bin.begin(), bin.end()));
    loads.push_back(0);
    for (const uint32_t row : bin) {
      ++seen[row];
      loads.back() += lengths[row];
    }
  }
  EXPECT_THAT(seen, testing::Each(1));
  const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
  EXPECT_LT(*most - *least, 100);
}

TokenRow Row(const std::vector<int32_t>& ids, const std::vector<uint8_t>& trained) {
  return {.ids = ids, .trained = trained, .row = 0};
}

TEST(BuildBatchTest, LabelsSitAtThePredecessorInTheSameDocument) {
  const std::vector<int32_t> first = {10, 11, 12};
  const std::vector<uint8_t> first_trained = {0, 0, 1};
  const std::vector<int32_t> second = {20, 21};
  const std::vector<uint8_t> second_trained = {0, 1};
  const PackedBatch batch =
      BuildBatch(std::vector<TokenRow>{Row(first, first_trained), Row(second, second_trained)});
  EXPECT_THAT(batch.ids, ElementsAre(10, 11, 12, 20, 21));
  EXPECT_THAT(batch.positions, ElementsAre(0, 1, 2, 0, 1));
  EXPECT_THAT(batch.document_begin, ElementsAre(0, 3, 5));
  EXPECT_THAT(batch.label_positions, ElementsAre(1, 3));
  EXPECT_THAT(batch.labels, ElementsAre(12, 21));
}

TEST(BuildBatchTest, NeverPredictsTheFirstTokenOfADocument) {
  const std::vector<int32_t> ids = {1, 2};
  const std::vector<uint8_t> all_trained = {1, 1};
  const PackedBatch batch =
      BuildBatch(std::vector<TokenRow>{Row(ids, all_trained), Row(ids, all_trained)});
  EXPECT_THAT(batch.label_positions, ElementsAre(0, 2));
}

TEST(IsOwnMicroBatchTest, RanksTakeTurns) {
  EXPECT_TRUE(IsOwnMicroBatch(4, 0, 2));
  EXPECT_FALSE(IsOwnMicroBatch(4, 1, 2));
  EXPECT_TRUE(IsOwnMicroBatch(5, 1, 2));
}

}  // namespace
}  // namespace lathe
