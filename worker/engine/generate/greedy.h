#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/engine/model/language_model.h"

namespace lathe {

struct GreedyPrompt {
  std::vector<int32_t> ids;    // At least one.
  int64_t max_new_tokens = 0;  // At least 1.
};

// For each prompt the most likely token again and again, up to and with the first of `end_ids`:
// transformers' generate(do_sample=False). All of them together, one pass per token. Throws what
// libtorch throws.
std::vector<std::vector<int32_t>> GreedyIds(LanguageModel& model,
                                            const std::vector<GreedyPrompt>& prompts,
                                            const std::vector<int64_t>& end_ids,
                                            const std::string& adapter);

}  // namespace lathe
