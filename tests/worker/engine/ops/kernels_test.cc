#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

#include "worker/engine/ops/counter_random.h"
#include "worker/engine/ops/matrix_product.h"

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

// The matrices with their rows or columns next to each other in memory, and as a part of wider ones.
struct Layout {
  const char* name;
  at::Tensor (*view)(const at::Tensor& matrix);
};
const std::vector<Layout> kLayouts = {
    {"rows", [](const at::Tensor& m) { return m.contiguous(); }},
    {"columns", [](const at::Tensor& m) { return m.transpose(-2, -1).contiguous().transpose(-2, -1); }},
    {"part", [](const at::Tensor& m) { return at::cat({m, m}, -1).narrow(-1, 0, m.size(-1)); }}};

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
    for (const Layout& of_a : kLayouts) {
      for (const Layout& of_b : kLayouts) {
        SCOPED_TRACE(testing::Message() << "case " << i << " " << of_a.name << " " << of_b.name);
        const at::Tensor a = of_a.view(Random(left[i], 1));
        const at::Tensor b = of_b.view(Random(right[i], 2));
        const at::Tensor expected = at::matmul(a.to(at::kDouble), b.to(at::kDouble));
        EXPECT_LE(RelativeError(Multiply(a, b), expected), 1e-6);
        const at::Tensor out = of_b.view(at::ones_like(expected, at::kFloat));
        MultiplyInto(out, a, b);
        EXPECT_LE(RelativeError(out, expected), 1e-6);
        AddProduct(out, a, b, 0.5);
        EXPECT_LE(RelativeError(out, 1.5 * expected), 1e-6);
      }
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

}  // namespace
}  // namespace lathe
