#pragma once

#include <cstdint>

namespace lathe {

enum class ScheduleKind { kCosine, kLinear, kConstant };

struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::kCosine;
  double peak = 3e-4;
  int64_t num_steps = 0;  // Of the whole run.
  int64_t num_warmup_steps = 0;
};

// ceil(ratio * num_steps): transformers' TrainingArguments.get_warmup_steps.
int64_t WarmupSteps(double ratio, int64_t num_steps);

// Learning rate of step `step`, from 0: transformers' get_cosine_schedule_with_warmup (num_cycles
// 0.5), get_linear_schedule_with_warmup and get_constant_schedule_with_warmup. As there, the first
// step of a run with warm-up has rate 0.
double LearningRate(const ScheduleOptions& options, int64_t step);

}  // namespace lathe
