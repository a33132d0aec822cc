#include "worker/engine/eval/held_out.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/fake_observer.h"
#include "tests/testing/local_group.h"
#include "tests/testing/shards.h"

namespace lathe {
namespace {

std::unique_ptr<LanguageModel> TinyModel() {
  at::set_num_threads(1);
  auto model = LanguageModel::Load("tests/data/tiny-llama", {});
  EXPECT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->LoadAdapter("a", "tests/data/tiny-adapter").ok());
  return *std::move(model);
}

Evaluation Evaluate(Communicator& group, const Shard& rows, int64_t micro_batch_tokens = 64) {
  testing::FakeObserver observer;
  const auto evaluation =
      EvaluateHeldOut(*TinyModel(), "a", rows, micro_batch_tokens, group, observer);
  EXPECT_TRUE(evaluation.ok()) << evaluation.status();
  return evaluation.ok() ? *evaluation : Evaluation{};
}

TEST(EvaluateHeldOutTest, MatchesTransformers) {
  const nlohmann::json golden = testing::ReadJson("tests/data/goldens/batch.json");
  const Shard rows = testing::MakeShard(testing::RowsFromJson(golden.at("rows")));
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  const Evaluation evaluation = Evaluate(*solo, rows);
  const double tokens = golden.at("num_tokens");
  EXPECT_EQ(evaluation.rows, 4);
  EXPECT_EQ(static_cast<double>(evaluation.tokens), tokens);
  EXPECT_NEAR(evaluation.loss, golden.at("loss_sum_f64").get<double>() / tokens, 1e-5);
  EXPECT_NEAR(evaluation.accuracy, golden.at("num_correct").get<double>() / tokens, 1e-12);
}

TEST(EvaluateHeldOutTest, AllRanksGetWhatOneRankGets) {
  std::vector<testing::OwnedRow> owned;
  for (uint64_t i = 0; i < 9; ++i) owned.push_back(testing::RandomRow(10 + 7 * i, 1 + 3 * i, i));
  const Shard rows = testing::MakeShard(owned);
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  const Evaluation alone = Evaluate(*solo, rows);
  testing::LocalGroup(3).Run([&](Communicator& group) {
    const Evaluation together = Evaluate(group, rows);
    EXPECT_EQ(together.loss, alone.loss);
    EXPECT_EQ(together.accuracy, alone.accuracy);
    EXPECT_EQ(together.tokens, alone.tokens);
    EXPECT_EQ(together.rows, 9);
  });
}

TEST(EvaluateHeldOutTest, WithoutRowsThereIsNothingToMeasure) {
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  const Evaluation evaluation = Evaluate(*solo, testing::MakeShard({}));
  EXPECT_EQ(evaluation.rows, 0);
  EXPECT_EQ(evaluation.tokens, 0);
}

}  // namespace
}  // namespace lathe
