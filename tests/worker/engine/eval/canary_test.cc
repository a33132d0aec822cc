#include "worker/engine/eval/canary.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/testing/shards.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<LanguageModel> TinyModel() {
  auto model = LanguageModel::Load("tests/data/tiny-llama", {});
  EXPECT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->LoadAdapter("a", "tests/data/tiny-adapter").ok());
  return *std::move(model);
}

CanaryAnswers Answers(std::vector<float> logits, std::vector<int32_t> greedy) {
  return {.logits = at::tensor(logits).view({-1, 2}), .greedy = std::move(greedy)};
}

TEST(CanaryTest, RowsAreTheFirstOnesCutWithTheirPrompts) {
  std::vector<testing::OwnedRow> rows;
  for (uint64_t i = 0; i < 6; ++i) rows.push_back(testing::RandomRow(100 + 20 * i, 30, i));
  const std::vector<CanaryRow> canary = CanaryRows(testing::MakeShard(rows));
  ASSERT_EQ(canary.size(), kCanaryRows);
  EXPECT_EQ(canary[0].ids, rows[0].ids);
  EXPECT_EQ(canary[0].first_label, 69);
  EXPECT_EQ(canary[3].ids.size(), kCanaryTokens);
  // 160 tokens, the first 130 of them not trained: the prompt is what is left of the row.
  EXPECT_EQ(canary[3].first_label, 127);
}

TEST(CanaryTest, TheSameModelGivesTheSameAnswersAndAnotherAdapterOthers) {
  const std::vector<CanaryRow> rows =
      CanaryRows(testing::MakeShard({testing::RandomRow(40, 10, 1), testing::RandomRow(9, 3, 2)}));
  const CanaryAnswers answers = AnswerCanary(*TinyModel(), rows, "a");
  EXPECT_EQ(answers.logits.sizes(), (std::vector<int64_t>{kCanaryPositions + 9, 384}));
  EXPECT_EQ(static_cast<int64_t>(answers.greedy.size()), 2 * kCanaryNewTokens);
  const auto same = CompareAnswers(answers, AnswerCanary(*TinyModel(), rows, "a"));
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ(same->max_logit_difference, 0);
  EXPECT_EQ(same->kl, 0);
  EXPECT_EQ(same->greedy_agreement, 1);
  EXPECT_EQ(same->positions, kCanaryPositions + 9);
  EXPECT_TRUE(JudgeParity(*same).ok());
  const auto base = CompareAnswers(answers, AnswerCanary(*TinyModel(), rows, ""));
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_FALSE(JudgeParity(*base).ok());
}

TEST(CanaryTest, ARowAsLongAsTheModelsPositionsIsAnswered) {
  const auto model = TinyModel();
  const auto length = static_cast<size_t>(model->config().max_positions);
  const testing::OwnedRow random = testing::RandomRow(length, 1, 3);
  CanaryRow row{.ids = random.ids,
                .trained = random.trained,
                .first_label = model->config().max_positions - 1};
  EXPECT_EQ(AnswerCanary(*model, {row}, "").greedy.size(), 1U);
  row.first_label -= 2;
  EXPECT_EQ(AnswerCanary(*model, {row}, "").greedy.size(), 3U);
}

TEST(CanaryTest, FiguresAreThoseOfTheDefinition) {
  const auto parity = CompareAnswers(Answers({0, 0, 5, 5}, {1, 2, 3, 4}),
                                     Answers({std::log(3.F), 0, 5, 5}, {1, 2, 3, 5}));
  ASSERT_TRUE(parity.ok()) << parity.status();
  EXPECT_NEAR(parity->max_logit_difference, std::log(3), 1e-6);
  // Of the first position: 0.5 ln(0.5 / 0.75) + 0.5 ln(0.5 / 0.25); of the second: 0.
  EXPECT_NEAR(parity->kl, 0.5 * (0.5 * std::log(0.5 / 0.75) + 0.5 * std::log(2)), 1e-7);
  EXPECT_EQ(parity->greedy_agreement, 0.75);
}

TEST(CanaryTest, AnswersOfAnotherSizeAreLost) {
  EXPECT_EQ(CompareAnswers(Answers({0, 0}, {1}), Answers({0, 0, 0, 0}, {1})).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(CompareAnswers(Answers({0, 0}, {1}), Answers({0, 0}, {1, 2})).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(CanaryTest, EveryFigureHasItsBound) {
  const Parity good{.greedy_agreement = 1, .positions = 3};
  EXPECT_TRUE(JudgeParity(good).ok());
  Parity bad = good;
  bad.max_logit_difference = 2e-4;
  EXPECT_THAT(JudgeParity(bad).message(), HasSubstr("0.0002; must be at most 0.0001"));
  bad.max_logit_difference = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(JudgeParity(bad).code(), absl::StatusCode::kDataLoss);
  bad = good;
  bad.kl = 1e-5;
  EXPECT_THAT(JudgeParity(bad).message(), HasSubstr("KL divergence"));
  bad = good;
  bad.greedy_agreement = 0.9;
  EXPECT_THAT(JudgeParity(bad).message(), HasSubstr("greedy agreement is 0.9; must be exactly 1"));
}

}  // namespace
}  // namespace lathe
