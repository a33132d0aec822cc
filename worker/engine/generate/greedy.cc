#include "worker/engine/generate/greedy.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <memory>

namespace lathe {

std::vector<int32_t> GreedyIds(CausalLm& model, const std::vector<int32_t>& prompt,
                               const GreedyOptions& options, const std::string& adapter) {
  const std::vector<int64_t>& ends = options.end_ids;
  const std::unique_ptr<KvCache> cache = model.NewCache();
  std::vector<int32_t> ids;
  at::Tensor logits_V = model.Extend(*cache, prompt, adapter);
  while (true) {
    const auto id = static_cast<int32_t>(logits_V.argmax().item<int64_t>());
    ids.push_back(id);
    const bool ended = std::find(ends.begin(), ends.end(), id) != ends.end();
    if (ended || static_cast<int64_t>(ids.size()) == options.max_new_tokens) return ids;
    logits_V = model.Extend(*cache, {id}, adapter);
  }
}

}  // namespace lathe
