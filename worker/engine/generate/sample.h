#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace at {
class Tensor;
}

namespace lathe {

struct SampleOptions {
  // 0: always the most likely token. Otherwise logits are divided by it, (0, 100].
  double temperature = 0;
  // Draws from the smallest set of most likely tokens whose probabilities sum to at least this,
  // (0, 1]; 1 disables it. Ignored when temperature is 0.
  double top_p = 1;
  uint64_t seed = 1;

  absl::Status Validate() const;
};

// A token and its share of what may be drawn.
struct Candidate {
  int32_t id = 0;
  double probability = 0;
};

// The tokens that may be drawn, with probabilities that sum to 1. logits [V]. REQUIRES:
// temperature > 0. Source: Holtzman et al., "The curious case of neural text degeneration", 2020.
// Throws c10::Error if a logit is NaN.
std::vector<Candidate> Candidates(const at::Tensor& logits, const SampleOptions& options);

// A pure function of its arguments. `position` is the number of the token in its sequence, so that
// every step draws anew. Of equally likely tokens greedy takes the one with the lowest id.
int32_t SampleToken(const at::Tensor& logits, const SampleOptions& options, int64_t position);

}  // namespace lathe
