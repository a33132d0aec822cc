#include "worker/engine/train/plan/step_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/file.h"

namespace lathe {
namespace {

// Row i has i + 2 tokens, the last one trained, and number 100 + i.
Shard MakeShard(int num_rows) {
  ShardWriter writer(std::string(64, 'a'));
  for (int i = 0; i < num_rows; ++i) {
    const std::vector<int32_t> ids(static_cast<size_t>(i) + 2, 5);
    std::vector<uint8_t> trained(ids.size(), 0);
    trained.back() = 1;
    EXPECT_TRUE(writer.Add({.ids = ids, .trained = trained, .row = 100 + i}).ok());
  }
  absl::StatusOr<TempFolder> folder = TempFolder::Make("step_plan_test");
  EXPECT_TRUE(folder.ok());
  EXPECT_TRUE(writer.Write(folder->path() / "x.shard").ok());
  absl::StatusOr<Shard> shard = Shard::Open(folder->path() / "x.shard");
  EXPECT_TRUE(shard.ok()) << shard.status();
  return *std::move(shard);
}

TEST(PlanStepTest, CountsTokensOfTheStep) {
  const Shard shard = MakeShard(4);
  const StepPlan plan = PlanStep(shard, std::vector<uint32_t>{3, 1, 0}, 1000);
  EXPECT_EQ(plan.trained_tokens, 3);
  EXPECT_EQ(plan.prompt_tokens, 5 + 3 + 2 - 3);
}

TEST(PlanStepTest, NamesShardRowsNotBatchPositions) {
  const Shard shard = MakeShard(4);
  const StepPlan plan = PlanStep(shard, std::vector<uint32_t>{3, 1, 0}, 1000);
  EXPECT_THAT(plan.micro_batches,
              testing::ElementsAre(testing::ElementsAre(3), testing::ElementsAre(1, 0)));
}

TEST(PlanStepTest, MicroBatchesHoldAsManyLabelsAsCounted) {
  const Shard shard = MakeShard(9);
  const StepPlan plan = PlanStep(shard, std::vector<uint32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8}, 16);
  size_t labels = 0;
  size_t tokens = 0;
  for (const auto& rows : plan.micro_batches) {
    const PackedBatch batch = BuildMicroBatch(shard, rows);
    labels += batch.labels.size();
    tokens += batch.ids.size();
  }
  EXPECT_EQ(static_cast<int64_t>(labels), plan.trained_tokens);
  EXPECT_EQ(static_cast<int64_t>(tokens), plan.trained_tokens + plan.prompt_tokens);
}

TEST(DescribeRowsTest, UsesTheNumbersOfTheUsersFile) {
  const Shard shard = MakeShard(20);
  EXPECT_EQ(DescribeRows(shard, std::vector<uint32_t>{7}), "row 107");
  EXPECT_EQ(DescribeRows(shard, std::vector<uint32_t>{7, 2}), "rows 107, 102");
  std::vector<uint32_t> many;
  for (uint32_t i = 0; i < 20; ++i) many.push_back(i);
  EXPECT_THAT(DescribeRows(shard, many), testing::EndsWith("115 and 4 more"));
}

}  // namespace
}  // namespace lathe
