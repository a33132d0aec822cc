// `reduction: exact`: the number of ranks changes no bit of a training.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/engine/train/trainer_fixture.h"

namespace lathe {
namespace {

using testing::CopyOf;
using ::testing::HasSubstr;
using testing::kSeed;
using testing::RandomRow;
using testing::RankState;
using testing::RunRanks;
using testing::RunResult;
using testing::UnevenRows;

struct Case {
  const char* name;
  const char* method;
  double dropout;
};

class ExactReductionTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    spec_ = testing::Spec();
    spec_.reduction = "exact";
    spec_.method = GetParam().method;
    spec_.epochs = 2;
    spec_.batch_size = 8;
    spec_.micro_batch_tokens = 64;
    spec_.weight_decay = 0.1;
  }

  // Eight micro-batches in the first step of an epoch, in the second as many as rows are left: 3.
  static Shard Rows() {
    std::vector<testing::OwnedRow> rows;
    for (uint64_t i = 0; i < 11; ++i) rows.push_back(RandomRow(40 + 3 * i, 1 + 4 * i, i));
    return testing::MakeShardVisitedInOrder(rows, kSeed);
  }

  RunResult Run(int ranks) const {
    return RunRanks(ranks, ranks - 1, rows_, spec_, /*fp64=*/false, GetParam().dropout);
  }

  JobSpec spec_;
  const Shard rows_ = Rows();
};
INSTANTIATE_TEST_SUITE_P(Trainings, ExactReductionTest,
                         ::testing::Values(Case{"Adapter", "sft", 0},
                                           Case{"AdapterWithDropout", "sft", 0.2},
                                           Case{"AllParameters", "full", 0}),
                         [](const auto& test) { return test.param.name; });

void ExpectSameState(const TrainerState& a, const TrainerState& b) {
  EXPECT_TRUE(at::equal(a.values, b.values));
  EXPECT_TRUE(at::equal(a.first_moments, b.first_moments));
  EXPECT_TRUE(at::equal(a.second_moments, b.second_moments));
  EXPECT_EQ(a.ledger, b.ledger);
  EXPECT_EQ(a.num_done, b.num_done);
}

TEST_P(ExactReductionTest, AnyNumberOfRanksEndsWithTheSameBits) {
  const RunResult one = Run(1);
  ASSERT_EQ(one.stats.size(), 4U);
  EXPECT_EQ(one.stats[0].num_micro_batches, 8);
  EXPECT_EQ(one.stats[1].num_micro_batches, 3);
  for (const int ranks : {2, 3, 4}) {
    const RunResult many = Run(ranks);
    ExpectSameState(many.state, one.state);
    for (size_t step = 0; step < one.stats.size(); ++step) {
      EXPECT_EQ(many.stats[step].loss, one.stats[step].loss) << ranks << " ranks, step " << step;
      EXPECT_EQ(many.stats[step].grad_norm, one.stats[step].grad_norm);
    }
  }
}

// Without this the test above would show nothing.
TEST_P(ExactReductionTest, SumsOfFloatsOfTheSameRowsDependOnTheNumberOfRanks) {
  spec_.reduction = "fast";
  EXPECT_FALSE(at::equal(Run(1).state.values, Run(2).state.values));
}

TEST_P(ExactReductionTest, GradientsAreThoseOfFloats) {
  const RunResult exact = Run(1);
  spec_.reduction = "fast";
  const RunResult fast = Run(1);
  // Of the first step: later ones start from other weights.
  for (size_t i = 0; i < exact.gradients[0].size(); ++i) {
    const at::Tensor& expected = fast.gradients[0][i];
    const double norm = at::linalg_vector_norm(expected).item<double>();
    const at::Tensor difference = expected - exact.gradients[0][i];
    EXPECT_LE(at::linalg_vector_norm(difference).item<double>(), 1e-6 * norm) << "tensor " << i;
  }
  EXPECT_EQ(exact.stats[0].loss, fast.stats[0].loss);
  EXPECT_NEAR(exact.stats[0].grad_norm, fast.stats[0].grad_norm, 1e-6 * fast.stats[0].grad_norm);
}

// What every rank ends with that goes on from `middle`.
TrainerState GoOn(int ranks, const Shard& rows, const JobSpec& spec, double dropout,
                  const TrainerState& middle) {
  TrainerState end;
  testing::LocalGroup(ranks).Run([&](Communicator& group) {
    RankState rank(group, rows, spec, /*fp64=*/false, /*checkpointing=*/false, dropout);
    rank.trainer->Restore(middle);
    while (rank.trainer->num_done() < rank.trainer->num_steps()) {
      ASSERT_TRUE(rank.trainer->Step().ok());
    }
    if (group.rank() == 0) end = CopyOf(rank.trainer->state());
  });
  return end;
}

TEST_P(ExactReductionTest, OneOrFourRanksGoOnFromWhereTwoWere) {
  TrainerState middle;
  testing::LocalGroup(2).Run([&](Communicator& group) {
    RankState rank(group, rows_, spec_, false, false, GetParam().dropout);
    ASSERT_TRUE(rank.trainer->Step().ok());
    if (group.rank() == 0) middle = CopyOf(rank.trainer->state());
  });
  const TrainerState whole = Run(1).state;
  for (const int ranks : {1, 4}) {
    ExpectSameState(GoOn(ranks, rows_, spec_, GetParam().dropout, middle), whole);
  }
}

// A proof of a checkpoint is of floats: whatever the reduction, of the same ones.
TEST_P(ExactReductionTest, AProbeSeesTheFirstMicroBatchAndChangesNoBit) {
  const RunResult plain = Run(1);
  at::Tensor seen;
  double loss_seen = 0;
  testing::LocalGroup(2).Run([&](Communicator& group) {
    RankState rank(group, rows_, spec_, false, false, GetParam().dropout);
    while (rank.trainer->num_done() < rank.trainer->num_steps()) {
      if (group.rank() == 0) {
        rank.trainer->ProbeNextStep([&](double loss_sum, const at::Tensor& gradients) {
          seen = gradients.clone();
          loss_seen = loss_sum;
          return absl::OkStatus();
        });
        const int64_t done = rank.trainer->num_done();
        if (done == 1) {  // For a step that may not come: the next sees the same again.
          ASSERT_TRUE(rank.trainer->RunProbe().ok());
          const at::Tensor first = seen;
          const double first_loss = loss_seen;
          rank.trainer->ProbeNextStep(
              [&, first, first_loss](double loss_sum, const at::Tensor& now) {
                EXPECT_EQ(loss_sum, first_loss);
                EXPECT_TRUE(at::equal(now, first));
                return absl::OkStatus();
              });
        }
      }
      ASSERT_TRUE(rank.trainer->Step().ok());
    }
    if (group.rank() == 0) ExpectSameState(rank.trainer->state(), plain.state);
  });
}

// A gradient of 1e30 with a loss that is finite: B is zero, so A's size shows in B's gradient only.
TEST(ExactReductionLimitTest, AGradientThatDoesNotFitEndsTheStepOnEveryRank) {
  const Shard rows = UnevenRows();
  JobSpec spec = testing::Spec();
  spec.reduction = "exact";
  testing::LocalGroup(2).Run([&](Communicator& group) {
    RankState rank(group, rows, spec, /*fp64=*/false, /*checkpointing=*/false, /*dropout=*/0.1);
    for (const AdapterTensor& entry : rank.trainer->parameters().tensors()) {
      const at::NoGradGuard no_grad;
      // Rank 1 alone: it has the second micro-batch, one row.
      if (group.rank() == 1) at::Tensor(entry.tensor).mul_(1e25);
    }
    const at::Tensor before = rank.trainer->state().values.clone();
    const absl::Status status = rank.trainer->Step().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("step 1: the largest gradient is "));
    EXPECT_THAT(std::string(status.message()), HasSubstr(" in row "));
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("with reduction exact it must be at most 524287"));
    EXPECT_TRUE(at::equal(rank.trainer->state().values, before));
    EXPECT_EQ(rank.trainer->num_done(), 0);
  });
}

// The same training goes on with floats.
TEST(ExactReductionLimitTest, SumsOfFloatsHaveNoSuchLimit) {
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  const Shard rows = UnevenRows();
  JobSpec spec = testing::Spec();
  spec.reduction = "fast";
  RankState rank(*solo, rows, spec, /*fp64=*/false, /*checkpointing=*/false, /*dropout=*/0.1);
  for (const AdapterTensor& entry : rank.trainer->parameters().tensors()) {
    const at::NoGradGuard no_grad;
    at::Tensor(entry.tensor).mul_(1e10);
  }
  EXPECT_TRUE(rank.trainer->Step().ok());
}

}  // namespace
}  // namespace lathe
