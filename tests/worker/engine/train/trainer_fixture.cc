#include "tests/worker/engine/train/trainer_fixture.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace lathe::testing {

JobSpec Spec() {
  JobSpec spec;
  spec.seed = static_cast<int64_t>(kSeed);
  spec.epochs = 1;
  spec.batch_size = 3;
  spec.micro_batch_tokens = 128;
  spec.learning_rate = 1e-2;
  spec.warmup_ratio = 0;
  return spec;
}

RankState::RankState(Communicator& group, const Shard& rows, const JobSpec& spec, bool fp64,
                     bool checkpointing, double dropout) {
  const bool full = spec.method == "full";
  auto loaded = LanguageModel::Load(
      "tests/data/tiny-llama",
      {.fp64 = fp64, .activation_checkpointing = checkpointing, .trainable = full});
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  model = *std::move(loaded);
  if (!full && dropout > 0) {
    EXPECT_TRUE(model->AddAdapter("a", {.rank = 4, .dropout = dropout}, kSeed).ok());
  } else if (!full) {
    EXPECT_TRUE(model->LoadAdapter("a", "tests/data/tiny-adapter").ok());
  }
  trainer = std::make_unique<Trainer>(
      TrainerParts{*model, full ? "" : "a", rows, group, observer, clock}, spec);
}

std::vector<at::Tensor> RankState::Gradients() const {
  std::vector<at::Tensor> gradients;
  for (const AdapterTensor& entry : trainer->parameters().tensors()) {
    gradients.push_back(entry.tensor.grad().clone());
  }
  return gradients;
}

RunResult RunRanks(int size, int watched, const Shard& rows, const JobSpec& spec, bool fp64,
                   double dropout) {
  RunResult result;
  LocalGroup(size).Run([&](Communicator& group) {
    RankState rank(group, rows, spec, fp64, /*checkpointing=*/false, dropout);
    while (rank.trainer->num_done() < rank.trainer->num_steps()) {
      const auto stats = rank.trainer->Step();
      ASSERT_TRUE(stats.ok()) << stats.status();
      if (group.rank() != watched) continue;
      result.stats.push_back(*stats);
      result.gradients.push_back(rank.Gradients());
    }
    if (group.rank() == watched) result.state = CopyOf(rank.trainer->state());
  });
  return result;
}

Shard UnevenRows() {
  return MakeShardVisitedInOrder({RandomRow(511, 1, 1), RandomRow(510, 500, 2), RandomRow(20, 0, 3),
                                  RandomRow(40, 7, 4), RandomRow(30, 29, 5)},
                                 kSeed);
}

TrainerState CopyOf(const TrainerState& state) {
  return {state.num_done, state.ledger, state.values.clone(), state.first_moments.clone(),
          state.second_moments.clone()};
}

}  // namespace lathe::testing
