#include "worker/engine/ops/lora_linear.h"

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "worker/engine/ops/counter_random.h"

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Where the layers that have an update lie, without their tensors.
struct LoraPlan : torch::CustomClassHolder {
  struct Slice {
    int64_t layer = 0;       // Index in the group.
    int64_t out_begin = 0;   // Columns of y.
    int64_t out_size = 0;    // O_i.
    int64_t rank_begin = 0;  // Columns of all A products side by side.
    int64_t rank = 0;
  };
  std::vector<Slice> slices;
  double scale = 1;
  double dropout = 0;
  uint64_t dropout_seed = 0;
  int64_t rank_sum = 0;
};
using PlanPtr = c10::intrusive_ptr<LoraPlan>;

PlanPtr MakePlan(const LinearGroup& group, const LoraUpdate& update, variable_list& tensors) {
  auto plan = c10::make_intrusive<LoraPlan>();
  plan->scale = update.scale;
  plan->dropout = update.dropout;
  plan->dropout_seed = update.dropout_seed;
  int64_t out_begin = 0;
  for (size_t i = 0; i < group.out_features.size(); ++i) {
    const LoraPair& pair = update.pairs[i];
    if (pair.a.defined()) {
      plan->slices.push_back({static_cast<int64_t>(i), out_begin, group.out_features[i],
                              plan->rank_sum, pair.a.size(0)});
      plan->rank_sum += pair.a.size(0);
      tensors.insert(tensors.end(), {pair.a, pair.b});
    }
    out_begin += group.out_features[i];
  }
  return plan;
}

at::Tensor MaskOf(const LoraPlan& plan, const LoraPlan::Slice& slice, const at::Tensor& x) {
  return DropoutMask(x, plan.dropout, plan.dropout_seed, slice.layer);
}

// All A below each other, [sum r, I]: one product with x instead of several thin ones.
at::Tensor StackA(at::TensorList tensors) {
  if (tensors.size() == 2) return tensors[0];
  variable_list a;
  for (size_t i = 0; i < tensors.size(); i += 2) a.push_back(tensors[i]);
  return at::cat(a, 0);
}

// [T, sum r]
at::Tensor ProjectDown(const LoraPlan& plan, const at::Tensor& x, at::TensorList tensors) {
  if (plan.dropout == 0) return at::mm(x, StackA(tensors).t());
  at::Tensor down = at::empty({x.size(0), plan.rank_sum}, x.options());
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const LoraPlan::Slice& slice = plan.slices[i];
    down.narrow(1, slice.rank_begin, slice.rank)
        .copy_(at::mm(x * MaskOf(plan, slice, x), tensors[2 * i].t()));
  }
  return down;
}

// Adds scale * up A to grad_x, through the dropout masks.
void AddInputGradient(const LoraPlan& plan, const at::Tensor& grad_down,
                      const variable_list& tensors, at::Tensor& grad_x) {
  if (plan.dropout == 0) {
    grad_x.addmm_(grad_down, StackA(tensors));
    return;
  }
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const LoraPlan::Slice& slice = plan.slices[i];
    const at::Tensor part = grad_down.narrow(1, slice.rank_begin, slice.rank);
    grad_x.addcmul_(at::mm(part, tensors[2 * i]), MaskOf(plan, slice, grad_x));
  }
}

struct LoraLinearFunction : torch::autograd::Function<LoraLinearFunction> {
  // Gradients flow to x and to `tensors` = {A, B, A, B, ...}. They must come as a TensorList:
  // apply() does not look into a vector.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            at::TensorList tensors, const PlanPtr& plan) {
    at::Tensor y = at::mm(x, weight.t());
    const at::Tensor down = ProjectDown(*plan, x, tensors);
    for (size_t i = 0; i < plan->slices.size(); ++i) {
      const LoraPlan::Slice& slice = plan->slices[i];
      y.narrow(1, slice.out_begin, slice.out_size)
          .addmm_(down.narrow(1, slice.rank_begin, slice.rank), tensors[2 * i + 1].t(), 1,
                  plan->scale);
    }
    variable_list saved = {x, weight, down};
    saved.insert(saved.end(), tensors.begin(), tensors.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["plan"] = c10::IValue::make_capsule(plan);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto capsule = ctx->saved_data["plan"].toCapsule();
    const auto& plan = static_cast<const LoraPlan&>(*capsule);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const variable_list tensors(saved.begin() + 3, saved.end());
    const at::Tensor grad_y = grads[0].contiguous();
    variable_list result(2 + tensors.size() + 1);
    const at::Tensor grad_down =
        AdapterGradients(plan, grad_y, x, saved[2], tensors, result.data() + 2);
    if (ctx->needs_input_grad(0)) {
      result[0] = at::mm(grad_y, weight);
      AddInputGradient(plan, grad_down, tensors, result[0]);
    }
    return result;
  }

  // Fills {dA, dB, ...}; returns d loss / d (A x), [T, sum r]. The small products come first, so
  // that everything after them has width r.
  static at::Tensor AdapterGradients(const LoraPlan& plan, const at::Tensor& grad_y,
                                     const at::Tensor& x, const at::Tensor& down,
                                     const variable_list& tensors, at::Tensor* out) {
    at::Tensor grad_down = at::empty_like(down);
    for (size_t i = 0; i < plan.slices.size(); ++i) {
      const LoraPlan::Slice& slice = plan.slices[i];
      const at::Tensor grad = grad_y.narrow(1, slice.out_begin, slice.out_size);
      at::Tensor grad_part = grad_down.narrow(1, slice.rank_begin, slice.rank);
      at::mm_out(grad_part, grad, tensors[2 * i + 1]);
      out[2 * i + 1] =
          at::mm(grad.t(), down.narrow(1, slice.rank_begin, slice.rank)).mul_(plan.scale);
    }
    grad_down.mul_(plan.scale);
    if (plan.dropout == 0) {
      const at::Tensor grad_a = at::mm(grad_down.t(), x);
      for (size_t i = 0; i < plan.slices.size(); ++i) {
        out[2 * i] = grad_a.narrow(0, plan.slices[i].rank_begin, plan.slices[i].rank);
      }
      return grad_down;
    }
    for (size_t i = 0; i < plan.slices.size(); ++i) {
      const LoraPlan::Slice& slice = plan.slices[i];
      out[2 * i] =
          at::mm(grad_down.narrow(1, slice.rank_begin, slice.rank).t(), x * MaskOf(plan, slice, x));
    }
    return grad_down;
  }
};

// Frozen layers still pass the gradient on to x, and form none for the weight.
struct FrozenLinearFunction : torch::autograd::Function<FrozenLinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight) {
    ctx->save_for_backward({weight});
    return at::mm(x, weight.t());
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {at::mm(grads[0], ctx->get_saved_variables()[0]), at::Tensor()};
  }
};

template <typename Scalar>
void FillMask(Scalar* out, int64_t count, double dropout, uint64_t key) {
  const auto keep = static_cast<Scalar>(1 / (1 - dropout));
  for (int64_t i = 0; i < count; ++i) {
    out[i] = UniformAt(key, static_cast<uint64_t>(i)) < dropout ? Scalar{0} : keep;
  }
}

}  // namespace

at::Tensor DropoutMask(const at::Tensor& like, double dropout, uint64_t seed, int64_t layer) {
  at::Tensor mask = at::empty(like.sizes(), like.options());
  const uint64_t key = StreamKey(seed, static_cast<uint64_t>(layer));
  AT_DISPATCH_FLOATING_TYPES(mask.scalar_type(), "DropoutMask", [&] {
    FillMask(mask.data_ptr<scalar_t>(), mask.numel(), dropout, key);
  });
  return mask;
}

at::Tensor LoraLinear(const at::Tensor& x, const LinearGroup& group, const LoraUpdate* update) {
  variable_list tensors;
  if (update != nullptr) {
    const PlanPtr plan = MakePlan(group, *update, tensors);
    if (!tensors.empty())
      return LoraLinearFunction::apply(x, group.weight, at::TensorList(tensors), plan);
  }
  return FrozenLinearFunction::apply(x, group.weight);
}

}  // namespace lathe
