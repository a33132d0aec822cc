#include "worker/engine/generate/greedy.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <utility>

namespace lathe {

std::vector<std::vector<int32_t>> GreedyIds(LanguageModel& model,
                                            const std::vector<GreedyPrompt>& prompts,
                                            const std::vector<int64_t>& end_ids,
                                            const std::string& adapter) {
  std::vector<std::vector<int32_t>> answers(prompts.size());
  std::vector<std::unique_ptr<KvCache>> caches;
  std::vector<SequencePart> parts;
  std::vector<size_t> open;  // The prompts of `parts`.
  for (const GreedyPrompt& prompt : prompts) {
    caches.push_back(model.NewCache());
    parts.push_back({caches.back().get(), prompt.ids});
    open.push_back(open.size());
  }
  while (!parts.empty()) {
    const at::Tensor best = model.Extend(parts, adapter).argmax(1);
    std::vector<SequencePart> next;
    std::vector<size_t> still_open;
    for (size_t i = 0; i < parts.size(); ++i) {
      const auto id = static_cast<int32_t>(best[static_cast<int64_t>(i)].item<int64_t>());
      std::vector<int32_t>& answer = answers[open[i]];
      answer.push_back(id);
      const bool full = static_cast<int64_t>(answer.size()) == prompts[open[i]].max_new_tokens;
      if (full || std::find(end_ids.begin(), end_ids.end(), id) != end_ids.end()) continue;
      next.push_back({parts[i].cache, {id}});
      still_open.push_back(open[i]);
    }
    parts = std::move(next);
    open = std::move(still_open);
  }
  return answers;
}

}  // namespace lathe
