#include "worker/engine/train/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <memory>

#include "tests/worker/engine/train/trainer_fixture.h"

namespace lathe {
namespace {

using testing::CopyOf;
using ::testing::HasSubstr;
using testing::kSeed;
using testing::OwnedRow;
using testing::RandomRow;
using testing::RankState;
using testing::RunRanks;
using testing::RunResult;
using testing::Spec;
using testing::UnevenRows;

void ExpectSameGradients(const RunResult& one, const RunResult& many, double tolerance) {
  ASSERT_EQ(one.gradients.size(), many.gradients.size());
  for (size_t step = 0; step < one.gradients.size(); ++step) {
    for (size_t i = 0; i < one.gradients[step].size(); ++i) {
      const at::Tensor& expected = one.gradients[step][i];
      const double norm = at::linalg_vector_norm(expected).item<double>();
      const double difference =
          at::linalg_vector_norm(expected - many.gradients[step][i]).item<double>();
      EXPECT_GT(norm, 0);
      EXPECT_LE(difference, tolerance * norm) << "step " << step << ", tensor " << i;
    }
  }
}

class DataParallelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    // The weights stay as they are, so that every step compares gradients at the same point.
    spec_.learning_rate = 0;
    spec_.max_grad_norm = 0;
  }

  JobSpec spec_ = Spec();
  const Shard rows_ = UnevenRows();
};

TEST_F(DataParallelTest, TheUnevenStepIsWhatItClaimsToBe) {
  RowOrder order({.seed = kSeed, .epochs = 1, .batch_size = 3, .num_rows = 5});
  const StepPlan plan = PlanStep(rows_, order.RowsOfStep(0), spec_.micro_batch_tokens);
  ASSERT_EQ(plan.micro_batches.size(), 3U);
  std::vector<size_t> labels(2);
  for (size_t i = 0; i < 3; ++i) {
    labels[i % 2] += BuildMicroBatch(rows_, plan.micro_batches[i]).labels.size();
  }
  EXPECT_THAT(labels, ::testing::ElementsAre(1, 500));
  EXPECT_EQ(order.RowsOfStep(1).size(), 2U);
}

TEST_F(DataParallelTest, TwoRanksMatchOneRankIn64Bits) {
  const RunResult one = RunRanks(1, 0, rows_, spec_, true);
  ExpectSameGradients(one, RunRanks(2, 0, rows_, spec_, true), 1e-12);
  ExpectSameGradients(one, RunRanks(2, 1, rows_, spec_, true), 1e-12);
}

TEST_F(DataParallelTest, TwoRanksMatchOneRankIn32Bits) {
  ExpectSameGradients(RunRanks(1, 0, rows_, spec_, false), RunRanks(2, 1, rows_, spec_, false),
                      1e-6);
}

// 1 x 8 = 2 x 4 = 8 x 1: ranks and micro-batches of one step.
TEST_F(DataParallelTest, GradientsOfAllParametersDoNotDependOnTheNumberOfRanks) {
  spec_.method = "full";
  spec_.batch_size = 8;
  spec_.micro_batch_tokens = 64;
  std::vector<OwnedRow> rows;
  for (uint64_t i = 0; i < 8; ++i) rows.push_back(RandomRow(40 + 3 * i, 1 + 4 * i, i));
  const Shard eight = testing::MakeShard(rows);
  for (const bool fp64 : {true, false}) {
    const RunResult one = RunRanks(1, 0, eight, spec_, fp64);
    ASSERT_EQ(one.stats[0].num_micro_batches, 8);
    for (const int ranks : {2, 8}) {
      ExpectSameGradients(one, RunRanks(ranks, ranks - 1, eight, spec_, fp64), fp64 ? 1e-12 : 1e-6);
    }
  }
}

TEST_F(DataParallelTest, RanksWithoutAMicroBatchContributeNothing) {
  // Step 2 has two rows, hence two micro-batches for three ranks.
  ExpectSameGradients(RunRanks(1, 0, rows_, spec_, true), RunRanks(3, 2, rows_, spec_, true),
                      1e-12);
}

TEST_F(DataParallelTest, LossDoesNotDependOnTheNumberOfRanks) {
  const RunResult one = RunRanks(1, 0, rows_, spec_, false);
  const RunResult two = RunRanks(2, 1, rows_, spec_, false);
  EXPECT_EQ(one.stats[0].loss, two.stats[0].loss);
  EXPECT_EQ(one.stats[1].loss, two.stats[1].loss);
}

TEST(TrainerTest, SameSeedAndRanksGiveTheSameBits) {
  at::set_num_threads(1);
  const Shard rows = UnevenRows();
  JobSpec spec = Spec();
  spec.epochs = 3;
  spec.lora.dropout = 0;
  const RunResult first = RunRanks(2, 0, rows, spec, false);
  const RunResult again = RunRanks(2, 0, rows, spec, false);
  const RunResult other_rank = RunRanks(2, 1, rows, spec, false);
  EXPECT_TRUE(at::equal(first.state.values, again.state.values));
  EXPECT_TRUE(at::equal(first.state.values, other_rank.state.values));
  spec.seed = 6;
  EXPECT_FALSE(at::equal(first.state.values, RunRanks(2, 0, rows, spec, false).state.values));
}

struct ResumeCase {
  const char* name;
  int ranks;
  const char* method;
  double dropout;
};
class ResumeTest : public ::testing::TestWithParam<ResumeCase> {};
INSTANTIATE_TEST_SUITE_P(Trainings, ResumeTest,
                         ::testing::Values(ResumeCase{"OneRank", 1, "sft", 0.2},
                                           ResumeCase{"TwoRanks", 2, "sft", 0.2},
                                           ResumeCase{"AllParameters", 2, "full", 0}),
                         [](const auto& test) { return test.param.name; });

TEST_P(ResumeTest, ATrainingThatGoesOnEndsWithTheSameBits) {
  at::set_num_threads(1);
  const Shard rows = UnevenRows();
  JobSpec spec = Spec();
  spec.epochs = 3;
  spec.method = GetParam().method;
  spec.weight_decay = 0.1;
  testing::LocalGroup(GetParam().ranks).Run([&](Communicator& group) {
    RankState whole(group, rows, spec, false, false, GetParam().dropout);
    TrainerState middle;
    while (whole.trainer->num_done() < whole.trainer->num_steps()) {
      ASSERT_TRUE(whole.trainer->Step().ok());
      if (whole.trainer->num_done() == 3) middle = CopyOf(whole.trainer->state());
    }
    RankState second(group, rows, spec, false, false, GetParam().dropout);
    second.trainer->Restore(middle);
    EXPECT_EQ(second.trainer->num_done(), 3);
    while (second.trainer->num_done() < second.trainer->num_steps()) {
      ASSERT_TRUE(second.trainer->Step().ok());
    }
    const TrainerState expected = whole.trainer->state();
    const TrainerState got = second.trainer->state();
    EXPECT_TRUE(at::equal(got.values, expected.values));
    EXPECT_TRUE(at::equal(got.first_moments, expected.first_moments));
    EXPECT_TRUE(at::equal(got.second_moments, expected.second_moments));
    EXPECT_EQ(got.ledger, expected.ledger);
    EXPECT_EQ(second.observer.steps.front().step, 4);
    EXPECT_EQ(second.observer.steps.front().remaining, 2 * second.observer.steps.front().step_time);
  });
}

TEST(TrainerTest, TheLedgerTellsWhichRowsWereCountedInWhichOrder) {
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  const Shard rows = UnevenRows();
  const auto ledger = [&](int64_t seed, int num_steps) {
    JobSpec spec = Spec();
    spec.seed = seed;
    spec.epochs = 2;
    RankState rank(*solo, rows, spec);
    for (int i = 0; i < num_steps; ++i) EXPECT_TRUE(rank.trainer->Step().ok());
    return rank.trainer->ledger();
  };
  EXPECT_EQ(ledger(5, 2), ledger(5, 2));
  EXPECT_NE(ledger(5, 2), ledger(6, 2));
  EXPECT_NE(ledger(5, 2), ledger(5, 4));
  EXPECT_EQ(ledger(5, 0), 0U);
}

TEST(TrainerTest, AProbeSeesTheFirstMicroBatchAloneAndChangesNoBit) {
  at::set_num_threads(1);
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  const Shard rows = UnevenRows();
  RankState plain(*solo, rows, Spec());
  RankState probed(*solo, rows, Spec());
  int calls = 0;
  probed.trainer->ProbeNextStep([&](double loss_sum, const at::Tensor& gradients) {
    ++calls;
    EXPECT_GT(loss_sum, 0);
    EXPECT_GT(at::linalg_vector_norm(gradients).item<double>(), 0);
    return absl::OkStatus();
  });
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(plain.trainer->Step().ok());
    ASSERT_TRUE(probed.trainer->Step().ok());
  }
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(at::equal(plain.trainer->state().values, probed.trainer->state().values));
}

TEST(TrainerTest, AProbeThatRefusesEndsTheStepBeforeAnythingChanges) {
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  const Shard rows = UnevenRows();
  RankState rank(*solo, rows, Spec());
  const TrainerState before = CopyOf(rank.trainer->state());
  rank.trainer->ProbeNextStep(
      [](double, const at::Tensor&) { return absl::DataLossError("other bits"); });
  EXPECT_EQ(rank.trainer->Step().status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(at::equal(rank.trainer->state().values, before.values));
  EXPECT_EQ(rank.trainer->num_done(), 0);
  EXPECT_TRUE(rank.observer.steps.empty());
}

TEST(TrainerTest, ReportsTheStep) {
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  const Shard rows = UnevenRows();
  RankState rank(*solo, rows, Spec());
  const auto stats = rank.trainer->Step();
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->step, 1);
  EXPECT_EQ(stats->num_steps, 2);
  EXPECT_EQ(stats->trained_tokens, 501);
  EXPECT_EQ(stats->prompt_tokens, 511 + 510 + 20 - 501);
  EXPECT_EQ(stats->padding_tokens, 0);
  EXPECT_EQ(stats->num_micro_batches, 3);
  EXPECT_EQ(stats->learning_rate, 1e-2);
  EXPECT_DOUBLE_EQ(stats->epoch, 0.5);
  EXPECT_EQ(stats->remaining, stats->step_time);
  // A second per look at the clock: two per micro-batch with labels and one when it ends, one when
  // the losses are read.
  EXPECT_EQ(stats->forward_time, absl::Seconds(2));
  EXPECT_EQ(stats->backward_time, absl::Seconds(3));
  EXPECT_EQ(stats->reduce_time, absl::Seconds(4));
  EXPECT_EQ(stats->optimizer_time, absl::Seconds(1));
  EXPECT_DOUBLE_EQ(stats->tokens_per_second, 1041 / absl::ToDoubleSeconds(stats->step_time));
  ASSERT_EQ(rank.observer.steps.size(), 1U);
  EXPECT_EQ(rank.observer.phases["train"], 3);
  EXPECT_EQ(rank.observer.phases["reduce"], 1);
}

TEST(TrainerTest, GradientsAreOnTheirWayBeforeTheLastBackwardPassEnds) {
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  const Shard rows =
      testing::MakeShard({RandomRow(60, 30, 1), RandomRow(50, 20, 2), RandomRow(40, 10, 3)});
  RankState plain(*solo, rows, Spec());
  // Its layers have a backward pass of their own inside of the backward pass.
  RankState checkpointed(*solo, rows, Spec(), /*fp64=*/false, /*checkpointing=*/true);
  for (const RankState* rank : {&plain, &checkpointed}) {
    ASSERT_TRUE(rank->trainer->Step().ok());
    EXPECT_EQ(rank->trainer->buckets().num_started_early(), rank->trainer->buckets().num_buckets());
  }
  EXPECT_TRUE(at::equal(plain.trainer->gradients(), checkpointed.trainer->gradients()));
}

TEST(TrainerTest, FullTuningWithCheckpointedLayersHasTheSameGradients) {
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  const Shard rows = testing::MakeShard({RandomRow(60, 30, 1), RandomRow(50, 20, 2)});
  JobSpec spec = Spec();
  spec.method = "full";
  RankState plain(*solo, rows, spec);
  RankState checkpointed(*solo, rows, spec, /*fp64=*/false, /*checkpointing=*/true);
  for (const RankState* rank : {&plain, &checkpointed}) ASSERT_TRUE(rank->trainer->Step().ok());
  const GradientBuckets& buckets = checkpointed.trainer->buckets();
  EXPECT_EQ(buckets.num_started_early(), buckets.num_buckets());
  EXPECT_TRUE(at::equal(plain.trainer->gradients(), checkpointed.trainer->gradients()));
}

// Sees a range of gradients when its sum starts.
class WatchingCommunicator final : public Communicator {
 public:
  std::function<void()> on_start = [] {};

  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status AllReduceSum(at::Tensor& /*tensor*/) override { return absl::OkStatus(); }
  std::unique_ptr<PendingCollective> StartAllReduceSum(at::Tensor& tensor) override {
    on_start();
    return Communicator::StartAllReduceSum(tensor);
  }
  absl::Status Broadcast(at::Tensor& /*tensor*/, int /*root*/) override { return absl::OkStatus(); }
  absl::Status ReduceScatterSum(const at::Tensor& /*whole*/, at::Tensor& /*part*/) override {
    return absl::UnimplementedError("not here");
  }
  absl::Status AllGatherInto(const at::Tensor& /*part*/, at::Tensor& /*whole*/) override {
    return absl::UnimplementedError("not here");
  }
  absl::Status Barrier() override { return absl::OkStatus(); }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view bytes) override {
    return std::vector<std::string>{std::string(bytes)};
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int /*color*/) override {
    return absl::UnimplementedError("not here");
  }
};

// The embedding is first in the buffer and done last: all other ranges are on their way before.
TEST(TrainerTest, AllParametersAreReducedWhileTheBackwardPassStillRuns) {
  auto model = LanguageModel::Load("tests/data/tiny-llama", {.trainable = true});
  ASSERT_TRUE(model.ok()) << model.status();
  WatchingCommunicator group;
  FlatParameters parameters((*model)->ParameterTensors());
  GradientBuckets buckets(parameters, group, {.bucket_bytes = 8192});
  ASSERT_GT(buckets.num_buckets(), 4U);
  const at::Tensor embedding = parameters.tensors()[0].tensor.grad();
  size_t num_before_the_end = 0;
  group.on_start = [&] { num_before_the_end += embedding.count_nonzero().item<int64_t>() == 0; };
  const Shard rows = testing::MakeShard({RandomRow(60, 30, 1)});
  const at::Tensor loss =
      (*model)->LossSum(BuildMicroBatch(rows, std::vector<uint32_t>{0}), "", true, 0);
  buckets.Arm();
  loss.backward();
  ASSERT_TRUE(buckets.Finish().ok());
  EXPECT_EQ(num_before_the_end, buckets.num_buckets() - 1);
  EXPECT_EQ(buckets.num_started_early(), buckets.num_buckets());
}

TEST(TrainerTest, AStepOfFullTuningStartsItsSumsEarlyAndMovesEveryParameter) {
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  const Shard rows = testing::MakeShard({RandomRow(60, 30, 1), RandomRow(50, 20, 2)});
  JobSpec spec = Spec();
  spec.method = "full";
  RankState rank(*solo, rows, spec);
  std::vector<at::Tensor> before;
  for (const AdapterTensor& entry : rank.trainer->parameters().tensors()) {
    before.push_back(entry.tensor.detach().clone());
  }
  ASSERT_TRUE(rank.trainer->Step().ok());
  EXPECT_GT(rank.trainer->buckets().num_started_early(), 0U);
  size_t i = 0;
  for (const AdapterTensor& entry : rank.trainer->parameters().tensors()) {
    EXPECT_FALSE(at::equal(entry.tensor, before[i++])) << entry.name;
  }
}

// Replaces one value by NaN.
void Poison(RankState& rank) {
  at::Tensor tensor = rank.model->AdapterTensors("a")[0].tensor.detach();
  tensor.view(-1)[0] = std::numeric_limits<double>::quiet_NaN();
}

TEST(TrainerTest, LossThatIsNotFiniteNamesStepAndRowsOnEveryRank) {
  const Shard rows = UnevenRows();
  testing::LocalGroup(2).Run([&](Communicator& group) {
    RankState rank(group, rows, Spec());
    ASSERT_TRUE(rank.trainer->Step().ok());
    if (group.rank() == 1) Poison(rank);
    const absl::Status status = rank.trainer->Step().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("step 2: the loss is "));
    // Rank 1 has the second micro-batch: one row.
    EXPECT_THAT(std::string(status.message()), HasSubstr(" in row "));
    EXPECT_EQ(rank.trainer->num_done(), 1);
  });
}

TEST(TrainerTest, StepWithoutTrainedTokensIsRefused) {
  const std::unique_ptr<Communicator> solo = MakeSoloCommunicator();
  const Shard rows = testing::MakeShard({RandomRow(10, 0, 1), RandomRow(12, 0, 2)});
  RankState rank(*solo, rows, Spec());
  const absl::Status status = rank.trainer->Step().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("step 1 has no trained token in rows "));
}

TEST(TrainerTest, OneRankThatStopsStopsAllAfterTheSameStep) {
  const Shard rows = UnevenRows();
  JobSpec spec = Spec();
  spec.epochs = 4;
  testing::LocalGroup(3).Run([&](Communicator& group) {
    RankState rank(group, rows, spec);
    ASSERT_TRUE(rank.trainer->Step().ok());
    EXPECT_FALSE(rank.trainer->stopped());
    ASSERT_TRUE(rank.trainer->Step(/*stop=*/group.rank() == 2).ok());
    EXPECT_TRUE(rank.trainer->stopped());
  });
}

TEST(TrainerTest, LostPeerIsUnavailable) {
  const Shard rows = UnevenRows();
  testing::LocalGroup(2).Run([&](Communicator& group) {
    if (group.rank() == 1) return;
    RankState rank(group, rows, Spec());
    EXPECT_EQ(rank.trainer->Step().status().code(), absl::StatusCode::kUnavailable);
  });
}

}  // namespace
}  // namespace lathe
