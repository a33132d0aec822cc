#include "worker/engine/train/exact_sums.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "worker/engine/train/fixed_point.h"
#include "worker/engine/train/plan/random.h"

namespace lathe {
namespace {

constexpr double kStep = 1 / kFixedPointScale;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

template <typename T>
class FixedPointTest : public ::testing::Test {
 protected:
  // What the values count as. Eight copies: whole vectors and what is left over see each of them.
  static std::vector<int64_t> Counted(const std::vector<T>& values) {
    std::vector<int64_t> first;
    for (size_t copies : {1, 8}) {
      std::vector<T> all;
      for (size_t i = 0; i < copies; ++i) all.insert(all.end(), values.begin(), values.end());
      std::vector<int64_t> sums(all.size());
      AddFixedPoint(all.data(), static_cast<int64_t>(all.size()), sums.data());
      EXPECT_THAT(all, ::testing::Each(T{0}));
      if (first.empty()) first = sums;
      for (size_t i = 0; i < sums.size(); ++i) EXPECT_EQ(sums[i], first[i % first.size()]);
    }
    return first;
  }
  static T Largest(std::vector<T> values) {
    std::vector<int64_t> sums(values.size());
    return AddFixedPoint(values.data(), static_cast<int64_t>(values.size()), sums.data());
  }
};
using Floats = ::testing::Types<float, double>;
TYPED_TEST_SUITE(FixedPointTest, Floats);

TYPED_TEST(FixedPointTest, CountsInStepsOf2ToTheMinus44) {
  using T = TypeParam;
  EXPECT_THAT(this->Counted({T(0), T(-0.0), T(1), T(-1), T(kStep), T(-3 * kStep), T(0.1F)}),
              ::testing::ElementsAre(0, 0, int64_t{1} << 44, -(int64_t{1} << 44), 1, -3,
                                     std::llrint(double{0.1F} * kFixedPointScale)));
}

TYPED_TEST(FixedPointTest, TiesGoToTheEvenNeighbour) {
  using T = TypeParam;
  std::vector<T> values;
  for (const double half : {0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.75, -0.25}) {
    values.push_back(T(half * kStep));
  }
  EXPECT_THAT(this->Counted(values), ::testing::ElementsAre(0, 2, 2, 0, -2, -2, 1, 0));
  // Beside a border of the halves that the rounding works on.
  EXPECT_THAT(this->Counted({T((0x1p20 + 0.5) * kStep), T((0x1p20 + 1.5) * kStep)}),
              ::testing::ElementsAre(0x100000, 0x100002));
}

TYPED_TEST(FixedPointTest, EveryMagnitudeBelowTheLimitIsRoundedAsTheProcessorDoes) {
  using T = TypeParam;
  CounterRandom random(3);
  std::vector<T> values;
  for (int exponent = -60; exponent < 19; ++exponent) {
    for (int i = 0; i < 50; ++i) {
      const double fraction = static_cast<double>(random.Next() >> 11) * 0x1p-53;
      values.push_back(static_cast<T>(std::ldexp(i % 2 == 0 ? fraction : -fraction, exponent)));
    }
  }
  const T largest = std::nextafter(T(kFixedPointLimit), T(0));
  values.insert(values.end(), {largest, -largest, std::numeric_limits<T>::denorm_min()});
  std::vector<int64_t> expected;
  for (const T value : values) {
    const bool counts = std::abs(value) < kFixedPointLimit;
    expected.push_back(counts ? std::llrint(static_cast<double>(value) * kFixedPointScale) : 0);
  }
  EXPECT_EQ(this->Counted(values), expected);
}

TYPED_TEST(FixedPointTest, WhatDoesNotFitCountsAsNothingAndIsTold) {
  using T = TypeParam;
  EXPECT_THAT(this->Counted({T(0x1p19), T(-0x1p19), T(1e30), T(kInfinity), T(-kInfinity), T(kNaN)}),
              ::testing::Each(0));
  EXPECT_EQ(this->Largest({T(1), T(-3), T(2)}), 3);
  EXPECT_EQ(this->Largest({T(1), T(-0x1p19)}), 0x1p19);
  EXPECT_EQ(this->Largest({T(1), T(-kInfinity), T(2)}), kInfinity);
  EXPECT_TRUE(std::isnan(this->Largest({T(kInfinity), T(kNaN), T(2)})));
  EXPECT_TRUE(std::isnan(this->Largest({T(1), -T(kNaN)})));
}

TYPED_TEST(FixedPointTest, ReadsBackWhatFitsIntoTheType) {
  using T = TypeParam;
  const std::vector<int64_t> sums = {0, 1, -1, int64_t{5} << 44, -(int64_t{3} << 60)};
  std::vector<T> values(sums.size());
  FromFixedPoint(sums.data(), static_cast<int64_t>(sums.size()), values.data());
  EXPECT_THAT(values, ::testing::ElementsAre(T(0), T(kStep), T(-kStep), T(5), T(-3 * 0x1p16)));
}

// Micro-batches whose sum of floats depends on their order.
std::vector<at::Tensor> MicroBatches(at::ScalarType type) {
  std::vector<at::Tensor> parts;
  CounterRandom random(7);
  for (int i = 0; i < 5; ++i) {
    std::vector<double> values;
    for (int j = 0; j < 70001; ++j) {
      const auto draw = static_cast<double>(random.Next() >> 11) * 0x1p-53 - 0.5;
      values.push_back(std::ldexp(draw, static_cast<int>(random.Below(20)) - 10));
    }
    parts.push_back(at::tensor(values, at::kDouble).to(type));
  }
  return parts;
}

// The sum in that order, by floats and exactly.
struct Sums {
  at::Tensor floats;
  at::Tensor exact;
  double largest = 0;
};
Sums AddInOrder(const std::vector<at::Tensor>& parts, const std::vector<size_t>& order) {
  Sums sums;
  at::Tensor gradients = at::zeros_like(parts[0]);
  sums.floats = at::zeros_like(parts[0]);
  ExactSums exact(gradients);
  for (const size_t i : order) {
    sums.floats.add_(parts[i]);
    gradients.copy_(parts[i]);
    exact.Add(0, 30000);
    exact.Add(30000, gradients.numel() - 30000);
    sums.largest += exact.TakeLargest().item<double>();
    EXPECT_EQ(gradients.count_nonzero().item<int64_t>(), 0);
  }
  exact.Read();
  sums.exact = gradients;
  return sums;
}

TEST(ExactSumsTest, NoOrderChangesABitWhereThatOfFloatsDoes) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const std::vector<at::Tensor> parts = MicroBatches(type);
    const Sums one = AddInOrder(parts, {0, 1, 2, 3, 4});
    const Sums other = AddInOrder(parts, {3, 4, 1, 0, 2});
    EXPECT_FALSE(at::equal(one.floats, other.floats));
    EXPECT_TRUE(at::equal(one.exact, other.exact));
    const at::Tensor sum = at::stack(parts).to(at::kDouble).sum(0);
    EXPECT_TRUE(at::allclose(one.exact.to(at::kDouble), sum, 1e-7, 5 * kStep));
    EXPECT_EQ(one.largest, at::stack(parts).abs().amax(1).to(at::kDouble).sum().item<double>());
  }
}

TEST(ExactSumsTest, OperationsOfAGpuCountTheSame) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    for (const at::Tensor& part : MicroBatches(type)) {
      at::Tensor own = part.clone();
      ExactSums exact(own);
      exact.Add(0, own.numel());
      at::Tensor gradients = part.clone();
      const at::Tensor sums = at::zeros_like(part, at::kLong);
      const at::Tensor largest = AddExactByAten(gradients, sums);
      EXPECT_TRUE(at::equal(sums, exact.Range(0, part.numel())));
      EXPECT_TRUE(at::equal(largest, exact.TakeLargest()));
      EXPECT_EQ(gradients.count_nonzero().item<int64_t>(), 0);
    }
  }
}

TEST(ExactSumsTest, ANumberThatIsNoneIsToldOnceWhereverItIs) {
  at::Tensor gradients = at::ones({100000}, at::kFloat);
  gradients[99999] = kNaN;
  ExactSums exact(gradients);
  exact.Add(50000, 50000);
  exact.Add(0, 50000);
  EXPECT_TRUE(std::isnan(exact.TakeLargest().item<double>()));
  exact.Add(0, 100000);
  EXPECT_EQ(exact.TakeLargest().item<double>(), 0);
}

}  // namespace
}  // namespace lathe
