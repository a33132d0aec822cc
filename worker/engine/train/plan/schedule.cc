#include "worker/engine/train/plan/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lathe {
namespace {

double Decay(ScheduleKind kind, double done) {
  switch (kind) {
    case ScheduleKind::kCosine:
      return std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * done)));
    case ScheduleKind::kLinear:
      return std::max(0.0, 1.0 - done);
    case ScheduleKind::kConstant:
      return 1.0;
  }
  return 1.0;
}

}  // namespace

int64_t WarmupSteps(double ratio, int64_t num_steps) {
  return static_cast<int64_t>(std::ceil(ratio * static_cast<double>(num_steps)));
}

double LearningRate(const ScheduleOptions& options, int64_t step) {
  const int64_t warmup = options.num_warmup_steps;
  if (step < warmup) {
    return options.peak * static_cast<double>(step) / static_cast<double>(warmup);
  }
  const auto decay_steps = static_cast<double>(std::max<int64_t>(1, options.num_steps - warmup));
  return options.peak * Decay(options.kind, static_cast<double>(step - warmup) / decay_steps);
}

}  // namespace lathe
