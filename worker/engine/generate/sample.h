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
  // Draws from the most likely tokens only, so many of them and all that are as likely as the last;
  // 0 disables it. Comes before top_p. Ignored when temperature is 0.
  int64_t top_k = 0;
  // Above 1: tokens that the sequence holds become less likely, (0, 10]. Holds for greedy as well.
  double repetition_penalty = 1;
  uint64_t seed = 1;

  absl::Status Validate() const;
};

// A token and its share of what may be drawn.
struct Candidate {
  int32_t id = 0;
  double probability = 0;
};

// Logits with those of `ids` divided by the penalty where they are positive and multiplied with it
// where they are negative, once per token. Source: Keskar et al., "CTRL", 2019, section 4.1;
// transformers, RepetitionPenaltyLogitsProcessor. A penalty of 1 returns `logits` itself.
at::Tensor PenalizeRepetition(const at::Tensor& logits, const std::vector<int32_t>& ids,
                              double penalty);

// The tokens that may be drawn, with probabilities that sum to 1. logits [V]. REQUIRES:
// temperature > 0. Source: Holtzman et al., "The curious case of neural text degeneration", 2020.
// Throws c10::Error if a logit is NaN.
std::vector<Candidate> Candidates(const at::Tensor& logits, const SampleOptions& options);

// A pure function of its arguments. `position` is the number of the token in its sequence, so that
// every step draws anew. Of equally likely tokens greedy takes the one with the lowest id.
int32_t SampleToken(const at::Tensor& logits, const SampleOptions& options, int64_t position);

}  // namespace lathe
