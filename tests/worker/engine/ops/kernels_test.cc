#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "worker/engine/ops/counter_random.h"
#include "worker/engine/ops/elementwise.h"
#include "worker/engine/ops/matrix_product.h"
#include "worker/engine/ops/row_kernels.h"

// What is computed by other means than plain ATen, against plain ATen in 64 bits.

namespace lathe {
namespace {

at::Tensor Random(at::IntArrayRef shape, uint64_t stream) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  const uint64_t key = StreamKey(42, stream);
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    tensor.data_ptr<float>()[i] =
        static_cast<float>(2 * UniformAt(key, static_cast<uint64_t>(i)) - 1);
  }
  return tensor;
}

double RelativeError(const at::Tensor& got, const at::Tensor& expected) {
  const at::Tensor difference = got.to(at::kDouble) - expected;
  return (difference.norm() / expected.norm()).item<double>();
}

// The matrices with their rows or columns next to each other in memory, and as a part of wider
// ones.
struct Layout {
  const char* name;
  at::Tensor (*view)(const at::Tensor& matrix);
};
const std::vector<Layout> kLayouts = {
    {"rows", [](const at::Tensor& m) { return m.contiguous(); }},
    {"columns",
     [](const at::Tensor& m) { return m.transpose(-2, -1).contiguous().transpose(-2, -1); }},
    {"part", [](const at::Tensor& m) {
       return at::cat({m, m}, -1).narrow(-1, 0, m.size(-1));
     }}};

class MatrixProductTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override { at::globalContext().setUserEnabledMkldnn(GetParam()); }
  void TearDown() override { at::globalContext().setUserEnabledMkldnn(true); }
};
INSTANTIATE_TEST_SUITE_P(OneDnn, MatrixProductTest, testing::Bool());

TEST_P(MatrixProductTest, EqualsTheProductIn64BitsWhateverTheLayout) {
  // Below and above the size from which oneDNN is asked.
  const std::vector<std::vector<int64_t>> left = {{5, 7}, {300, 130}, {3, 100, 150}};
  const std::vector<std::vector<int64_t>> right = {{7, 9}, {130, 210}, {3, 150, 200}};
  for (size_t i = 0; i < left.size(); ++i) {
    for (size_t of_a = 0; of_a < kLayouts.size(); ++of_a) {
      const size_t of_b = (of_a + 1) % kLayouts.size();
      SCOPED_TRACE(testing::Message() << "case " << i << ", a as " << kLayouts[of_a].name);
      const at::Tensor a = kLayouts[of_a].view(Random(left[i], 1));
      const at::Tensor b = kLayouts[of_b].view(Random(right[i], 2));
      const at::Tensor expected = at::matmul(a.to(at::kDouble), b.to(at::kDouble));
      EXPECT_LE(RelativeError(Multiply(a, b), expected), 1e-6);
      const at::Tensor out = kLayouts[of_a].view(at::ones_like(expected, at::kFloat));
      MultiplyInto(out, a, b);
      EXPECT_LE(RelativeError(out, expected), 1e-6);
      AddProduct(out, a, b, 0.5);
      EXPECT_LE(RelativeError(out, 1.5 * expected), 1e-6);
    }
  }
}

TEST_P(MatrixProductTest, LeavesTheColumnsBesideAViewAlone) {
  const at::Tensor out = at::full({300, 400}, 7, at::kFloat);
  MultiplyInto(out.narrow(1, 100, 210), Random({300, 130}, 1), Random({130, 210}, 2));
  EXPECT_TRUE(at::all(out.narrow(1, 0, 100) == 7).item<bool>());
  EXPECT_TRUE(at::all(out.narrow(1, 310, 90) == 7).item<bool>());
}

TEST_P(MatrixProductTest, GivesTheSameBitsAgain) {
  const at::Tensor a = Random({300, 130}, 1);
  const at::Tensor b = Random({130, 210}, 2);
  EXPECT_TRUE(at::equal(Multiply(a, b), Multiply(a, b)));
}

TEST_P(MatrixProductTest, In64BitsIsAtens) {
  const at::Tensor a = Random({300, 130}, 1).to(at::kDouble);
  const at::Tensor b = Random({130, 210}, 2).to(at::kDouble);
  EXPECT_TRUE(at::equal(Multiply(a, b), at::mm(a, b)));
}

// Widths around and far from the eight values of a vector. ops_test.cc has the same functions, with
// their gradients, in 64 bits; here it is the code for 32 bits.
class RowKernelTest : public testing::TestWithParam<int64_t> {
 protected:
  static constexpr int64_t kRows = 3;
  at::Tensor Rows(uint64_t stream) { return Random({kRows, GetParam()}, stream) * 6; }
};
INSTANTIATE_TEST_SUITE_P(Widths, RowKernelTest, testing::Values(1, 7, 8, 9, 64, 100, 4099));

// The output, then the gradients of `inputs` for a random weighting of it.
using Function = at::Tensor (*)(const std::vector<at::Tensor>& inputs);
std::vector<at::Tensor> Run(Function function, std::vector<at::Tensor> inputs,
                            at::ScalarType type) {
  for (at::Tensor& input : inputs) input = input.detach().to(type).set_requires_grad(true);
  const at::Tensor output = function(inputs);
  (output * Random(output.sizes(), 99).to(type)).sum().backward();
  std::vector<at::Tensor> result = {output.detach()};
  for (const at::Tensor& input : inputs) result.push_back(input.grad());
  return result;
}

void ExpectSameIn32Bits(Function ours, Function plain, const std::vector<at::Tensor>& inputs) {
  const auto got = Run(ours, inputs, at::kFloat);
  const auto expected = Run(plain, inputs, at::kDouble);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_LE(RelativeError(got[i], expected[i]), 1e-6) << i;
}

TEST_P(RowKernelTest, RmsNormAndBothGradients) {
  ExpectSameIn32Bits([](const auto& in) { return RmsNorm(in[0], in[1], 1e-5); },
                     [](const auto& in) {
                       return in[1] * in[0] * at::rsqrt(in[0].square().mean(-1, true) + 1e-5);
                     },
                     {Random({kRows, 1 + GetParam()}, 3), Random({1 + GetParam()}, 4)});
}

TEST_P(RowKernelTest, SwiGluAndItsGradient) {
  ExpectSameIn32Bits(
      [](const auto& in) {
        return SwiGlu(at::cat({in[0], in[1]}, 1));
      },
      [](const auto& in) { return in[0] * at::sigmoid(in[0]) * in[1]; }, {Rows(5), Rows(6)});
}

TEST_P(RowKernelTest, SoftmaxOfTheVisiblePartAndItsGradient) {
  const int64_t width = GetParam();
  const int64_t visible = (width + 1) / 2;
  const at::Tensor x = Rows(7);
  const at::Tensor p = x.clone();
  const at::Tensor grad = Rows(8);
  const at::Tensor got = grad.clone();
  for (int64_t row = 0; row < kRows; ++row) {
    float* values = p.data_ptr<float>() + row * width;
    SoftmaxRow(values, visible, width, 0.25F);
    SoftmaxGradientRow(values, width, 0.25F, got.data_ptr<float>() + row * width);
  }
  const at::Tensor seen = at::softmax(x.to(at::kDouble).narrow(1, 0, visible) * 0.25, 1);
  const at::Tensor expected = at::constant_pad_nd(seen, {0, width - visible});
  EXPECT_LE(RelativeError(p, expected), 1e-6);
  const at::Tensor mean = (expected * grad).sum(1, true);
  EXPECT_LE((got - 0.25 * expected * (grad - mean)).abs().max().item<double>(), 1e-6);
}

TEST_P(RowKernelTest, CrossEntropyAndItsGradient) {
  const int64_t width = GetParam();
  const at::Tensor logits = Rows(9);
  const at::Tensor grad = logits.clone();
  const at::Tensor expected = at::log_softmax(logits.to(at::kDouble), 1);
  for (int64_t row = 0; row < kRows; ++row) {
    const int64_t label = row * (width - 1) / 2;
    const double loss = CrossEntropyRow(grad.data_ptr<float>() + row * width, label, width);
    EXPECT_NEAR(loss, -expected[row][label].item<double>(), 2e-6);
    grad[row][label] += 1;
  }
  EXPECT_LE(RelativeError(grad, expected.exp()), 2e-6);
}

TEST(RowValuesTest, ExtremeValuesOverflowNowhere) {
  const float huge = 3e4F;
  float softmax[] = {-huge, huge, 0, huge};
  SoftmaxRow(softmax, 4, 4, 1.0F);
  EXPECT_THAT(softmax, testing::ElementsAre(0, 0.5F, 0, 0.5F));
  const float gate[] = {-huge, -90, 90, huge};
  const float up[] = {1, 1, 1, 1};
  float y[4];
  SwiGluRow(gate, up, 4, y);
  EXPECT_THAT(y, testing::ElementsAre(testing::FloatNear(0, 1e-30F), testing::FloatNear(0, 1e-30F),
                                      90, huge));
  float logits[] = {-huge, huge};
  EXPECT_FLOAT_EQ(static_cast<float>(CrossEntropyRow(logits, 0, 2)), 2 * huge);
}

TEST(RowValuesTest, ANumberThatIsNoneStaysVisible) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  float logits[] = {1, nan, 2, 3, 4, 5, 6, 7, 8, 9};
  EXPECT_TRUE(std::isnan(CrossEntropyRow(logits, 0, 10)));
  const float gate[] = {nan};
  const float up[] = {1};
  float y[1];
  SwiGluRow(gate, up, 1, y);
  EXPECT_TRUE(std::isnan(y[0]));
}

}  // namespace
}  // namespace lathe
