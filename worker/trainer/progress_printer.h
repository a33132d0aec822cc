#pragma once

#include <cstdio>
#include <string>

#include "worker/engine/train/train_observer.h"

namespace lathe {

// Shows a training to a person: a line per step, or on a terminal one line that is rewritten.
// Thread-compatible.
class ProgressPrinter final : public TrainObserver {
 public:
  // `out` outlives the printer.
  ProgressPrinter(std::FILE* out, bool terminal) : out_(out), terminal_(terminal) {}
  ~ProgressPrinter() override;
  ProgressPrinter(const ProgressPrinter&) = delete;
  ProgressPrinter& operator=(const ProgressPrinter&) = delete;

  void OnPhase(absl::string_view phase) override;
  void OnStep(const StepStats& stats) override;
  void OnEvaluation(bool before_training, const Evaluation& evaluation) override;

 private:
  void Line(const std::string& text);
  void EndBar();

  std::FILE* const out_;
  const bool terminal_;
  std::string phase_;
  bool bar_open_ = false;
};

// "step 12/90  loss 1.2345  lr 2.90e-04  grad 0.81  812 tokens/s  1m20s left".
std::string DescribeStep(const StepStats& stats);

}  // namespace lathe
