#include "worker/engine/train/gradient_buckets.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/testing/local_group.h"

namespace lathe {
namespace {

// Three tensors of 4, 2 and 3 values. A bucket of 16 bytes takes the last two together.
struct Model {
  Model() {
    for (const int64_t size : {4, 2, 3}) {
      tensors.push_back({"t", at::ones({size}, at::kFloat).set_requires_grad(true)});
    }
  }
  // d loss / d t = factor in every value of the tensors from `first` on.
  void Backward(double factor, size_t first = 0) {
    at::Tensor loss = at::zeros({}, at::kFloat);
    for (size_t i = first; i < tensors.size(); ++i) loss = loss + tensors[i].tensor.sum() * factor;
    loss.backward();
  }

  std::vector<AdapterTensor> tensors;
};

constexpr int64_t kBucketBytes = 16;

void ExpectAll(const at::Tensor& gradients, double value) {
  EXPECT_TRUE(at::equal(gradients, at::full_like(gradients, value))) << gradients;
}

TEST(GradientBucketsTest, RangesStartDuringTheLastBackwardPassAndSumOverTheRanks) {
  testing::LocalGroup(2).Run([](Communicator& group) {
    Model model;
    FlatParameters parameters(model.tensors);
    GradientBuckets buckets(parameters, group, {.bucket_bytes = kBucketBytes});
    ASSERT_EQ(buckets.num_buckets(), 2U);
    for (int step = 0; step < 2; ++step) {
      parameters.ZeroGradients();
      model.Backward(1);  // Another micro-batch follows: nothing may start.
      buckets.Arm();
      model.Backward(10.0 + group.rank());
      ASSERT_TRUE(buckets.Finish().ok());
      EXPECT_EQ(buckets.num_started_early(), 2U);
      ExpectAll(parameters.gradients(), 1 + 10 + 1 + 11);
      parameters.CheckViews();
    }
  });
}

TEST(GradientBucketsTest, RankWithoutABackwardPassTakesPart) {
  testing::LocalGroup(2).Run([](Communicator& group) {
    Model model;
    FlatParameters parameters(model.tensors);
    GradientBuckets buckets(parameters, group, {.bucket_bytes = kBucketBytes});
    if (group.rank() == 0) {
      buckets.Arm();
      model.Backward(3);
    }
    ASSERT_TRUE(buckets.Finish().ok());
    EXPECT_EQ(buckets.num_started_early(), group.rank() == 0 ? 2U : 0U);
    ExpectAll(parameters.gradients(), 3);
  });
}

TEST(GradientBucketsTest, RangeWithATensorThatGetsNoGradientWaitsForFinish) {
  testing::LocalGroup(2).Run([](Communicator& group) {
    Model model;
    FlatParameters parameters(model.tensors);
    GradientBuckets buckets(parameters, group, {.bucket_bytes = kBucketBytes});
    buckets.Arm();
    model.Backward(2, /*first=*/1);
    ASSERT_TRUE(buckets.Finish().ok());
    EXPECT_EQ(buckets.num_started_early(), 1U);
    ExpectAll(parameters.gradients().narrow(0, 0, 4), 0);
    ExpectAll(parameters.gradients().narrow(0, 4, 5), 4);
  });
}

TEST(GradientBucketsTest, ExactSumsTakeEveryMicroBatchOnce) {
  testing::LocalGroup(3).Run([](Communicator& group) {
    Model model;
    FlatParameters parameters(model.tensors);
    GradientBuckets buckets(parameters, group, {.exact = true, .bucket_bytes = kBucketBytes});
    for (int step = 0; step < 2; ++step) {
      buckets.SetZero();
      if (group.rank() < 2) {  // The third has none.
        model.Backward(-1);
        EXPECT_EQ(buckets.EndMicroBatch().item<double>(), 1);
        ExpectAll(parameters.gradients(), 0);
        buckets.Arm();
        model.Backward(10.0 + group.rank(), /*first=*/static_cast<size_t>(step));
        EXPECT_EQ(buckets.EndMicroBatch().item<double>(), 10 + group.rank());
      }
      ASSERT_TRUE(buckets.Finish().ok());
      // In the second step the first tensor gets no gradient in the last pass: its range waits.
      EXPECT_EQ(buckets.num_started_early(),
                group.rank() < 2 ? 2U - static_cast<size_t>(step) : 0U);
      ExpectAll(parameters.gradients().narrow(0, 0, 4), step == 0 ? 19 : -2);
      ExpectAll(parameters.gradients().narrow(0, 4, 5), 19);
      parameters.CheckViews();
    }
  });
}

TEST(GradientBucketsTest, LostPeerIsUnavailable) {
  testing::LocalGroup(2).Run([](Communicator& group) {
    if (group.rank() == 1) return;
    Model model;
    FlatParameters parameters(model.tensors);
    GradientBuckets buckets(parameters, group, {.bucket_bytes = kBucketBytes});
    buckets.Arm();
    model.Backward(1);
    EXPECT_EQ(buckets.Finish().code(), absl::StatusCode::kUnavailable);
  });
}

TEST(GradientBucketsTest, TakesItsHooksOffTheTensors) {
  const auto group = MakeSoloCommunicator();
  Model model;
  FlatParameters parameters(model.tensors);
  { const GradientBuckets buckets(parameters, *group, {.bucket_bytes = kBucketBytes}); }
  model.Backward(1);
  ExpectAll(parameters.gradients(), 1);
}

}  // namespace
}  // namespace lathe
