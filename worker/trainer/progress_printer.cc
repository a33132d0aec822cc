#include "worker/trainer/progress_printer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace lathe {
namespace {

std::string Bar(const StepStats& stats) {
  constexpr int64_t kWidth = 24;
  const auto filled =
      static_cast<size_t>(kWidth * stats.step / std::max<int64_t>(1, stats.num_steps));
  return absl::StrCat("[", std::string(filled, '#'), std::string(kWidth - filled, '.'), "]");
}

}  // namespace

std::string DescribeStep(const StepStats& stats) {
  const std::string remaining =
      absl::FormatDuration(absl::Trunc(stats.remaining, absl::Seconds(1)));
  return absl::StrFormat("step %d/%d  loss %.4f  lr %.2e  grad %.3f  %.0f tokens/s  %s left",
                         stats.step, stats.num_steps, stats.loss, stats.learning_rate,
                         stats.grad_norm, stats.tokens_per_second, remaining);
}

ProgressPrinter::~ProgressPrinter() { EndBar(); }

void ProgressPrinter::OnPhase(absl::string_view phase) {
  // These two take turns within every step.
  if (phase == phase_ || phase == "train" || phase == "reduce") return;
  phase_ = std::string(phase);
  Line(phase_);
}

void ProgressPrinter::OnStep(const StepStats& stats) {
  if (!terminal_) {
    Line(DescribeStep(stats));
    return;
  }
  absl::FPrintF(out_, "\r\033[K%s %s", Bar(stats), DescribeStep(stats));
  std::fflush(out_);
  bar_open_ = true;
}

void ProgressPrinter::OnEvaluation(bool before_training, const Evaluation& evaluation) {
  Line(absl::StrFormat("held-out loss %s training: %.4f  accuracy %.3f  (%d rows, %d tokens)",
                       before_training ? "before" : "after", evaluation.loss, evaluation.accuracy,
                       evaluation.rows, evaluation.tokens));
}

void ProgressPrinter::Line(const std::string& text) {
  EndBar();
  absl::FPrintF(out_, "%s\n", text);
  std::fflush(out_);
}

void ProgressPrinter::EndBar() {
  if (bar_open_) absl::FPrintF(out_, "\n");
  bar_open_ = false;
}

}  // namespace lathe
