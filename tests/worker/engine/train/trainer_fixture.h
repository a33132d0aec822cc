#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "tests/testing/fake_observer.h"
#include "tests/testing/local_group.h"
#include "tests/testing/shards.h"
#include "worker/engine/train/trainer.h"

// Trainings of the tiny model whose ranks are threads.

namespace lathe::testing {

constexpr uint64_t kSeed = 5;

// One epoch of three rows a step, without warm-up.
JobSpec Spec();

// One rank with a model of its own, as in a process of its own. It trains an adapter, or with
// method full every parameter.
struct RankState {
  // `dropout` not 0: a new adapter with it.
  RankState(Communicator& group, const Shard& rows, const JobSpec& spec, bool fp64 = false,
            bool checkpointing = false, double dropout = 0);

  std::vector<at::Tensor> Gradients() const;

  std::unique_ptr<LanguageModel> model;
  FakeObserver observer;
  TickingClock clock;
  std::unique_ptr<Trainer> trainer;
};

struct RunResult {
  std::vector<std::vector<at::Tensor>> gradients;  // Per step, per adapter tensor.
  std::vector<StepStats> stats;
  TrainerState state;  // At the end.
};

// What rank `watched` of a group of `size` sees of the whole run.
RunResult RunRanks(int size, int watched, const Shard& rows, const JobSpec& spec, bool fp64,
                   double dropout = 0);

// Step 1: three micro-batches. Rank 0 of 2 has 1 trained token in two of them, rank 1 has 500 in
// one. Step 2 is the short last batch of an epoch.
Shard UnevenRows();

// Its own memory, as a file's.
TrainerState CopyOf(const TrainerState& state);

}  // namespace lathe::testing
