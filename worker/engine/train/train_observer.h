#pragma once

#include "absl/strings/string_view.h"
#include "worker/engine/train/stats.h"

namespace lathe {

// What the engine tells the outside; it knows no wire and no metric library. Called by the thread
// that trains; must not block for long.
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;

  // Now in `phase` ("start", "load", "rendezvous", "evaluate", "train", "reduce", "export",
  // "verify"), and something was done since the last call: micro-batch by micro-batch.
  virtual void OnPhase(absl::string_view phase) = 0;
  // Every rank sees the same steps and evaluations.
  virtual void OnStep(const StepStats& stats) = 0;
  virtual void OnEvaluation(bool before_training, const Evaluation& evaluation) = 0;
};

}  // namespace lathe
