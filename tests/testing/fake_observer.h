#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "worker/engine/train/train_observer.h"

namespace lathe::testing {

// Keeps what it is told.
class FakeObserver final : public TrainObserver {
 public:
  void OnPhase(absl::string_view phase) override { ++phases[std::string(phase)]; }
  void OnStep(const StepStats& stats) override { steps.push_back(stats); }
  void OnEvaluation(bool before_training, const Evaluation& evaluation) override {
    (before_training ? before : after).push_back(evaluation);
  }

  std::map<std::string, int> phases;
  std::vector<StepStats> steps;
  std::vector<Evaluation> before;
  std::vector<Evaluation> after;
};

// Moves on by one second whenever it is asked.
class TickingClock final : public Clock {
 public:
  absl::Time Now() const override { return now_ += absl::Seconds(1); }

 private:
  mutable absl::Time now_ = absl::UnixEpoch();
};

}  // namespace lathe::testing
