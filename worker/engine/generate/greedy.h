#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/engine/model/causal_lm.h"

namespace lathe {

struct GreedyOptions {
  int64_t max_new_tokens = 0;  // At least 1.
  std::vector<int64_t> end_ids = {};
};

// The most likely token again and again, up to and with the first of `end_ids`: transformers'
// generate(do_sample=False). REQUIRES: a prompt of at least one token. Throws what libtorch throws.
std::vector<int32_t> GreedyIds(CausalLm& model, const std::vector<int32_t>& prompt,
                               const GreedyOptions& options, const std::string& adapter);

}  // namespace lathe
