#pragma once

#include <cstdint>

namespace lathe {

// How far a model that was loaded from exported files is from the one that was trained.
struct Parity {
  double max_logit_difference = 0;
  double kl = 0;                // Mean over positions of KL(trained || exported), in nats.
  double greedy_agreement = 0;  // Share of greedy tokens that are equal.
  int64_t positions = 0;        // At which logits were compared; 0: nothing was compared.
};

}  // namespace lathe
