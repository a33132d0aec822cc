#include "worker/engine/train/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

namespace lathe {
namespace {

// AdamW as in torch.optim.AdamW's documentation, in 64 bits.
struct ReferenceAdamW {
  AdamWOptions options;
  std::vector<double> values, first, second;
  int step = 0;

  void Step(const std::vector<double>& gradients, double learning_rate) {
    ++step;
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] *= 1 - learning_rate * options.weight_decay;
      first[i] = options.beta1 * first[i] + (1 - options.beta1) * gradients[i];
      second[i] = options.beta2 * second[i] + (1 - options.beta2) * gradients[i] * gradients[i];
      const double mean = first[i] / (1 - std::pow(options.beta1, step));
      const double variance = second[i] / (1 - std::pow(options.beta2, step));
      values[i] -= learning_rate * mean / (std::sqrt(variance) + options.eps);
    }
  }
};

std::vector<double> Gradient(int step, size_t size) {
  std::vector<double> gradient(size);
  for (size_t i = 0; i < size; ++i) {
    gradient[i] = std::sin(static_cast<double>(step * 31) + static_cast<double>(i));
  }
  return gradient;
}

double LargestDifference(const AdamWOptions& options, at::ScalarType type) {
  const std::vector<double> start = {1.0, -0.5, 0.25, 2.0, -3.0};
  ReferenceAdamW reference{options, start, std::vector<double>(5), std::vector<double>(5)};
  at::Tensor values = at::tensor(at::ArrayRef<double>(start), at::kDouble).to(type);
  AdamW optimizer(values, options);
  for (int step = 0; step < 20; ++step) {
    const std::vector<double> gradient = Gradient(step, start.size());
    const double rate = 1e-2 / (1 + step);
    reference.Step(gradient, rate);
    optimizer.Step(at::tensor(at::ArrayRef<double>(gradient), at::kDouble).to(type), rate);
  }
  const at::Tensor expected = at::tensor(at::ArrayRef<double>(reference.values), at::kDouble);
  return (values.to(at::kDouble) - expected).abs().max().item<double>();
}

TEST(AdamWTest, DecaysOnlyTheRangesThatAskForIt) {
  const AdamWOptions options = {.weight_decay = 0.5};
  at::Tensor values = at::ones({5}, at::kDouble);
  AdamW optimizer(values, options, {{2, true}, {1, false}, {2, true}});
  optimizer.Step(at::zeros({5}, at::kDouble), 0.1);
  EXPECT_TRUE(at::allclose(values, at::tensor({0.95, 0.95, 1.0, 0.95, 0.95}, at::kDouble)));
}

TEST(AdamWTest, MatchesTheReferenceIn64Bits) {
  EXPECT_LT(LargestDifference({}, at::kDouble), 1e-12);
  EXPECT_LT(LargestDifference({.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1},
                              at::kDouble),
            1e-12);
}

TEST(AdamWTest, MatchesTheReferenceIn32Bits) {
  EXPECT_LT(LargestDifference({.weight_decay = 0.1}, at::kFloat), 2e-6);
}

TEST(AdamWTest, DecayIsDecoupledFromTheGradient) {
  at::Tensor values = at::full({1}, 2.0, at::kDouble);
  AdamW optimizer(values, {.weight_decay = 0.5});
  optimizer.Step(at::zeros({1}, at::kDouble), 0.1);
  EXPECT_DOUBLE_EQ(values.item<double>(), 2.0 * (1 - 0.1 * 0.5));
}

TEST(ClipGradNormTest, ScalesToTheLimitByTorchsFormula) {
  at::Tensor gradients = at::tensor({3.0, 4.0}, at::kDouble);
  EXPECT_DOUBLE_EQ(ClipGradNorm(gradients, 1.0), 5.0);
  EXPECT_DOUBLE_EQ(gradients[0].item<double>(), 3.0 * (1.0 / (5.0 + 1e-6)));
}

TEST(ClipGradNormTest, LeavesSmallGradientsAndZeroLimitAlone) {
  at::Tensor gradients = at::tensor({0.3, 0.4}, at::kDouble);
  EXPECT_DOUBLE_EQ(ClipGradNorm(gradients, 1.0), 0.5);
  EXPECT_DOUBLE_EQ(ClipGradNorm(gradients, 0), 0.5);
  EXPECT_DOUBLE_EQ(gradients[1].item<double>(), 0.4);
}

TEST(ClipGradNormTest, SumsIn64BitsWithTheSameBitsOnAnyNumberOfThreads) {
  at::Tensor gradients = at::sin(at::arange(300001, at::kFloat));
  const double expected = at::linalg_vector_norm(gradients.to(at::kDouble)).item<double>();
  const int before = at::get_num_threads();
  std::set<double> norms;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    norms.insert(ClipGradNorm(gradients, 0));
  }
  at::set_num_threads(before);
  ASSERT_EQ(norms.size(), 1U);
  EXPECT_NEAR(*norms.begin(), expected, 1e-13 * expected);
}

TEST(ClipGradNormTest, ReportsANormThatIsNotFinite) {
  at::Tensor gradients = at::tensor({1.0, std::numeric_limits<double>::quiet_NaN()}, at::kDouble);
  EXPECT_TRUE(std::isnan(ClipGradNorm(gradients, 1.0)));
  EXPECT_DOUBLE_EQ(gradients[0].item<double>(), 1.0);
}

}  // namespace
}  // namespace lathe
