#include "worker/engine/ops/lora_plan.h"

#include <ATen/ATen.h>

namespace lathe {

PlanPtr MakePlan(const LinearGroup& group, const LoraUpdate& update,
                 std::vector<at::Tensor>& tensors) {
  auto plan = c10::make_intrusive<LoraPlan>();
  plan->scale = update.scale;
  plan->dropout = update.dropout;
  plan->dropout_seed = update.dropout_seed;
  plan->group = group;
  int64_t out_begin = 0;
  for (size_t i = 0; i < update.pairs.size(); ++i) {
    const LoraPair& pair = update.pairs[i];
    if (pair.a.defined()) {
      plan->slices.push_back({static_cast<int64_t>(i), out_begin, group.out_features[i],
                              plan->rank_sum, pair.a.size(0)});
      plan->rank_sum += pair.a.size(0);
      tensors.insert(tensors.end(), {pair.a, pair.b});
    }
    out_begin += group.out_features[i];
  }
  plan->width = out_begin;
  return plan;
}

at::Tensor MaskOf(const LoraPlan& plan, const LoraPlan::Slice& slice, const at::Tensor& x) {
  return DropoutMask(x, plan.dropout, plan.dropout_seed, slice.layer);
}

}  // namespace lathe
