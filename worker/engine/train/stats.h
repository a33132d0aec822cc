#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace lathe {

// One optimizer step over all ranks.
struct StepStats {
  int64_t step = 0;  // From 1.
  int64_t num_steps = 0;
  double loss = 0;  // Sum of token losses / trained tokens, before the update.
  double learning_rate = 0;
  double grad_norm = 0;  // Before clipping.
  int64_t trained_tokens = 0;
  int64_t prompt_tokens = 0;
  int64_t padding_tokens = 0;    // Packing needs none.
  double tokens_per_second = 0;  // Of all kinds.
  absl::Duration step_time;
  absl::Duration forward_time;
  absl::Duration backward_time;
  absl::Duration reduce_time;  // With the wait for slower ranks.
  absl::Duration optimizer_time;
  double epoch = 0;  // Done after this step: 1.5 is the middle of the second.
  absl::Duration remaining;
  int64_t num_micro_batches = 0;
};

// Over held-out rows, all ranks.
struct Evaluation {
  double loss = 0;      // Per trained token, natural logarithm.
  double accuracy = 0;  // Share of trained tokens that were the most likely one.
  int64_t tokens = 0;
  int64_t rows = 0;
};

}  // namespace lathe
