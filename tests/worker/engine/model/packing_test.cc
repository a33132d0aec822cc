#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/engine/model/model_fixture.h"

namespace lathe {
namespace {

std::vector<Row> GoldenRows() {
  return RowsOf(ReadJson(DataFolder() / "goldens" / "training.json").at("rows"));
}

void ExpectSame(const LossAndGradients& a, const LossAndGradients& b, double tolerance) {
  EXPECT_NEAR(a.loss, b.loss, tolerance * b.loss);
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (size_t i = 0; i < a.gradients.size(); ++i) {
    EXPECT_LE(RelativeError(a.gradients[i], b.gradients[i]), tolerance) << "tensor " << i;
  }
}

class PackingTest : public testing::TestWithParam<bool> {
 protected:
  double tolerance() const { return GetParam() ? 1e-12 : 1e-5; }
};
INSTANTIATE_TEST_SUITE_P(Precisions, PackingTest, testing::Values(false, true),
                         [](const auto& test) { return test.param ? "f64" : "f32"; });

TEST_P(PackingTest, PackedRowsHaveLossAndGradientsOfRowsAlone) {
  const auto model = LoadTiny(GetParam());
  const std::vector<Row> rows = GoldenRows();
  std::vector<PackedBatch> alone;
  for (const Row& row : rows) alone.push_back(Pack({row}));
  ExpectSame(Differentiate(*model, {Pack(rows)}, "tuned"), Differentiate(*model, alone, "tuned"),
             tolerance());
}

// A document longer than one block of the attention, behind a short one.
TEST_P(PackingTest, LongDocumentsCrossAttentionBlocks) {
  const auto model = LoadTiny(GetParam());
  Row lengthy;
  for (int i = 0; i < 500; ++i) {
    lengthy.ids.push_back((i * 53 + 11) % 384);
    lengthy.trained.push_back(i % 3 != 0 ? 1 : 0);
  }
  const Row brief = GoldenRows()[0];
  ExpectSame(Differentiate(*model, {Pack({brief, lengthy})}, "tuned"),
             Differentiate(*model, {Pack({brief}), Pack({lengthy})}, "tuned"), tolerance());
}

TEST_P(PackingTest, TokensOfAnotherDocumentChangeNothing) {
  const auto model = LoadTiny(GetParam());
  std::vector<Row> rows = GoldenRows();
  rows.resize(2);
  const at::Tensor before = model->Logits(Pack(rows), "tuned");
  for (int32_t& id : rows[0].ids) id = (id + 7) % 384;
  const at::Tensor after = model->Logits(Pack(rows), "tuned");
  const auto begin = static_cast<int64_t>(rows[0].ids.size());
  EXPECT_TRUE(at::equal(before.slice(0, begin), after.slice(0, begin)));
  EXPECT_FALSE(at::equal(before, after));
}

TEST(DeterminismTest, TheSameBatchGivesTheSameBits) {
  const auto model = LoadTiny(/*fp64=*/false);
  const PackedBatch batch = Pack(GoldenRows());
  const auto first = Differentiate(*model, {batch}, "tuned");
  const auto second = Differentiate(*LoadTiny(false), {batch}, "tuned");
  EXPECT_EQ(first.loss, second.loss);
  for (size_t i = 0; i < first.gradients.size(); ++i) {
    EXPECT_TRUE(at::equal(first.gradients[i], second.gradients[i])) << "tensor " << i;
  }
}

TEST(LossTest, ABatchWithoutLabelsHasLossZeroAndGradientsZero) {
  const auto model = LoadTiny(/*fp64=*/false);
  const auto result = Differentiate(*model, {Document({1, 2, 3})}, "tuned");
  EXPECT_EQ(result.loss, 0);
  for (const at::Tensor& gradient : result.gradients)
    EXPECT_EQ(gradient.abs().max().item<float>(), 0);
}

TEST(LossTest, TheBaseAloneHasALossWithoutGradient) {
  const auto model = LoadTiny(/*fp64=*/true);
  const PackedBatch batch = Pack(GoldenRows());
  const at::Tensor loss = model->LossSum(batch, "", false, 0);
  EXPECT_FALSE(loss.requires_grad());
  EXPECT_NEAR(loss.item<double>(), model->Evaluate(batch, "").loss, 1e-9);
}

TEST(BatchTest, OutOfRangeIdsAndPositionsAreRefusedByName) {
  const auto model = LoadTiny(/*fp64=*/false);
  const auto refusal = [&](const PackedBatch& batch) -> std::string {
    try {
      model->LossSum(batch, "tuned", true, 0);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "accepted";
  };
  PackedBatch batch = Pack({GoldenRows()[0]});
  batch.ids[1] = 384;
  EXPECT_THAT(refusal(batch), testing::HasSubstr("token id is 384; must be in [0, 384)"));
  batch = Pack({GoldenRows()[0]});
  batch.labels[0] = -1;
  EXPECT_THAT(refusal(batch), testing::HasSubstr("label is -1"));
  batch = Pack({GoldenRows()[0]});
  batch.positions.back() = 512;
  EXPECT_THAT(refusal(batch),
              testing::HasSubstr("a row has more than 512 tokens, which is all that "
                                 "this model allows; set max_length to at most 512"));
  batch.positions.back() = -1;
  EXPECT_THAT(refusal(batch), testing::HasSubstr("token position is -1"));
  batch = Pack({GoldenRows()[0]});
  batch.document_begin.back() -= 1;
  EXPECT_THAT(refusal(batch), testing::HasSubstr("document_begin"));
  batch = Pack({GoldenRows()[0]});
  batch.label_positions[0] = 100000;
  EXPECT_THAT(refusal(batch), testing::HasSubstr("label position is 100000"));
  EXPECT_THAT(refusal(PackedBatch{}), testing::HasSubstr("no tokens"));
}

}  // namespace
}  // namespace lathe
