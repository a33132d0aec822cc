#include "worker/engine/ops/lora_linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <utility>

#include "worker/engine/ops/counter_random.h"
#include "worker/engine/ops/device_kernels.h"
#include "worker/engine/ops/dora_linear.h"
#include "worker/engine/ops/dropout_mask.h"
#include "worker/engine/ops/lora_plan.h"
#include "worker/engine/ops/matrix_product.h"
#include "worker/engine/ops/trained_linear.h"

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// All B^T as blocks of one matrix, [sum r, sum O_i], 0 elsewhere. One product with it costs some
// multiplications by 0 and saves a copy of each layer's columns of the gradient.
at::Tensor SpreadB(const LoraPlan& plan, at::TensorList tensors) {
  if (plan.slices.size() == 1 && plan.slices[0].out_size == plan.width) return tensors[1].t();
  at::Tensor spread = at::zeros({plan.rank_sum, plan.width}, tensors[1].options());
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    BlockOf(plan.slices[i], spread).copy_(tensors[2 * i + 1].t());
  }
  return spread;
}

// All A below each other, [sum r, I]: one product with x instead of several thin ones.
at::Tensor StackA(at::TensorList tensors) {
  if (tensors.size() == 2) return tensors[0];
  variable_list a;
  for (size_t i = 0; i < tensors.size(); i += 2) a.push_back(tensors[i]);
  return at::cat(a, 0);
}

// A x of all layers, transposed, [sum r, T]. Thin products are several times faster with the rank
// as rows (MKL, measured), so everything of width r is kept transposed.
at::Tensor ProjectDown(const LoraPlan& plan, const at::Tensor& x, at::TensorList tensors) {
  if (plan.dropout == 0) return Multiply(StackA(tensors), x.t());
  at::Tensor down = at::empty({plan.rank_sum, x.size(0)}, x.options());
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    MultiplyInto(RowsOf(plan.slices[i], down), tensors[2 * i],
                 (x * MaskOf(plan, plan.slices[i], x)).t());
  }
  return down;
}

// Adds grad_down^T A to grad_x, through the dropout masks.
void AddInputGradient(const LoraPlan& plan, const at::Tensor& grad_down, at::TensorList tensors,
                      at::Tensor& grad_x) {
  if (plan.dropout == 0) {
    AddProduct(grad_x, grad_down.t(), StackA(tensors));
    return;
  }
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const at::Tensor part = Multiply(RowsOf(plan.slices[i], grad_down).t(), tensors[2 * i]);
    grad_x.addcmul_(part, MaskOf(plan, plan.slices[i], grad_x));
  }
}

struct LoraLinearFunction : torch::autograd::Function<LoraLinearFunction> {
  // Gradients flow to x and to `tensors` = {A, B, A, B, ...}. They must come as a TensorList:
  // apply() does not look into a vector.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList tensors,
                            const PlanPtr& plan) {
    at::Tensor y = Product(x, plan->group);
    const at::Tensor down = ProjectDown(*plan, x, tensors);
    for (size_t i = 0; i < plan->slices.size(); ++i) {
      const LoraPlan::Slice& slice = plan->slices[i];
      AddProduct(ColumnsOf(slice, y), RowsOf(slice, down).t(), tensors[2 * i + 1].t(), plan->scale);
    }
    variable_list saved = {x, down};
    saved.insert(saved.end(), tensors.begin(), tensors.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["plan"] = c10::IValue::make_capsule(plan);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const PlanPtr held = PlanIn(ctx->saved_data["plan"]);
    const LoraPlan& plan = *held;
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const variable_list tensors(saved.begin() + 2, saved.end());
    const at::Tensor grad_y = grads[0].contiguous();
    variable_list result(1 + tensors.size() + 1);
    const at::Tensor grad_down =
        AdapterGradients(plan, grad_y, x, saved[1], tensors, result.data() + 1);
    if (ctx->needs_input_grad(0)) {
      result[0] = BackProduct(grad_y, plan.group);
      AddInputGradient(plan, grad_down, tensors, result[0]);
    }
    return result;
  }

  // Fills {dA, dB, ...}; returns d loss / d (A x), transposed, [sum r, T]. The products with B come
  // first, so that everything after them has width r.
  static at::Tensor AdapterGradients(const LoraPlan& plan, const at::Tensor& grad_y,
                                     const at::Tensor& x, const at::Tensor& down,
                                     at::TensorList tensors, at::Tensor* out) {
    at::Tensor grad_down = Multiply(SpreadB(plan, tensors), grad_y.t()).mul_(plan.scale);
    const at::Tensor grad_b = Multiply(down, grad_y);  // Of all pairs of layers; theirs is wanted.
    for (size_t i = 0; i < plan.slices.size(); ++i) {
      const at::Tensor own = BlockOf(plan.slices[i], grad_b);
      out[2 * i + 1] = own.t().mul(plan.scale).contiguous();
    }
    const at::Tensor grad_a = plan.dropout == 0 ? Multiply(grad_down, x) : at::Tensor();
    for (size_t i = 0; i < plan.slices.size(); ++i) {
      const LoraPlan::Slice& slice = plan.slices[i];
      out[2 * i] = plan.dropout == 0
                       ? RowsOf(slice, grad_a)
                       : Multiply(RowsOf(slice, grad_down), x * MaskOf(plan, slice, x));
    }
    return grad_down;
  }
};

// Frozen layers still pass the gradient on to x, and form none for the weight.
struct FrozenLinearFunction : torch::autograd::Function<FrozenLinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const PlanPtr& plan) {
    ctx->saved_data["plan"] = c10::IValue::make_capsule(plan);
    return Product(x, plan->group);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {BackProduct(grads[0], PlanIn(ctx->saved_data["plan"])->group), at::Tensor()};
  }
};

bool HasMagnitude(const LoraUpdate& update) {
  return std::any_of(update.pairs.begin(), update.pairs.end(),
                     [](const LoraPair& pair) { return pair.magnitude.defined(); });
}

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
  if (!mask.is_cpu() || at::isReducedFloatingType(mask.scalar_type())) {
    FillDropoutMask(mask, dropout, key);
    return mask;
  }
  AT_DISPATCH_FLOATING_TYPES(mask.scalar_type(), "DropoutMask", [&] {
    FillMask(mask.data_ptr<scalar_t>(), mask.numel(), dropout, key);
  });
  return mask;
}

namespace {

bool IsNarrow(const at::Tensor& x) {
  return !x.is_cpu() || at::isReducedFloatingType(x.scalar_type());
}

at::Tensor WithoutBias(const at::Tensor& x, const LinearGroup& group, const LoraUpdate* update) {
  if (update != nullptr && HasMagnitude(*update)) return DoraLinear(x, group, *update);
  variable_list tensors;
  if (update != nullptr) {
    const PlanPtr plan = MakePlan(group, *update, tensors);
    if (!tensors.empty() && IsNarrow(x)) return NarrowLoraLinear(x, tensors, plan);
    if (!tensors.empty()) return LoraLinearFunction::apply(x, at::TensorList(tensors), plan);
  }
  return FrozenLinearFunction::apply(x, MakePlan(group, {}, tensors));
}

}  // namespace

at::Tensor LoraLinear(const at::Tensor& x, const LinearGroup& group, const LoraUpdate* update) {
  if (update == nullptr && group.weight.defined() && group.weight.requires_grad()) {
    return TrainedLinear(x, group.weight, group.bias);
  }
  at::Tensor y = WithoutBias(x, group, update);
  if (!group.bias.defined()) return y;
  const DeviceKernels* kernels = DeviceKernelsFor(y);
  if (kernels == nullptr) return y.add_(group.bias);
  // Autograd need not know: a constant is added to what nobody keeps.
  kernels->AddBias(y, group.bias);
  return y;
}

}  // namespace lathe
