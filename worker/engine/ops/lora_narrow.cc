#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "worker/engine/ops/lora_plan.h"
#include "worker/engine/ops/matrix_product.h"

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// All A below each other as the type of x, [sum r, I].
at::Tensor StackA(const LoraPlan& plan, at::TensorList tensors, const at::Tensor& x) {
  const at::Tensor stacked = at::empty({plan.rank_sum, x.size(1)}, x.options());
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    RowsOf(plan.slices[i], stacked).copy_(tensors[2 * i]);
  }
  return stacked;
}

// Columns that the update takes beside W: sum r, in whole steps of memory.
int64_t NumColumns(const LoraPlan& plan) {
  return (plan.rank_sum + kColumnMultiple - 1) / kColumnMultiple * kColumnMultiple;
}

// All B^T as blocks of one matrix, [columns, sum O_i], 0 elsewhere: one product for all layers.
at::Tensor SpreadB(const LoraPlan& plan, at::TensorList tensors, const at::Tensor& x) {
  const bool whole = plan.slices.size() == 1 && plan.slices[0].out_size == plan.width &&
                     NumColumns(plan) == plan.rank_sum;
  const at::Tensor spread = at::empty({NumColumns(plan), plan.width}, x.options());
  if (!whole) spread.zero_();
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    BlockOf(plan.slices[i], spread).copy_(tensors[2 * i + 1].t());
  }
  return spread;
}

// [x, scale * A x, 0], [T, I + columns].
at::Tensor AppendDown(const LoraPlan& plan, const at::Tensor& x, const at::Tensor& a) {
  const at::Tensor all = at::empty({x.size(0), x.size(1) + NumColumns(plan)}, x.options());
  all.narrow(1, 0, x.size(1)).copy_(x);
  at::Tensor down = all.narrow(1, x.size(1), NumColumns(plan));
  if (NumColumns(plan) > plan.rank_sum) down.zero_();
  if (plan.dropout == 0) {
    MultiplyInto(down.narrow(1, 0, plan.rank_sum), x, a.t());
  } else {
    for (const LoraPlan::Slice& slice : plan.slices) {
      MultiplyInto(down.narrow(1, slice.rank_begin, slice.rank), x * MaskOf(plan, slice, x),
                   RowsOf(slice, a).t());
    }
  }
  down.mul_(plan.scale);
  return all;
}

// One product where the group takes the update's columns. Else the update comes first and the
// frozen product is added to it: one rounding too, if the library adds before it rounds.
at::Tensor UpdatedProduct(const LoraPlan& plan, const at::Tensor& all, const at::Tensor& b) {
  const int64_t width = all.size(1) - b.size(0);
  const at::Tensor x = all.narrow(1, 0, width);
  if (TakesColumns(plan.group, x, b.size(0))) return AppendedProduct(all, b, plan.group);
  const at::Tensor y = Multiply(all.narrow(1, width, b.size(0)), b);
  AddGroupProduct(y, x, plan.group);
  return y;
}

// grad_down^T A through the dropout masks, [T, I].
at::Tensor InputGradient(const LoraPlan& plan, const at::Tensor& grad_down, const at::Tensor& a) {
  if (plan.dropout == 0) return Multiply(grad_down.t(), a);
  at::Tensor grad_x = at::zeros({grad_down.size(1), a.size(1)}, a.options());
  for (const LoraPlan::Slice& slice : plan.slices) {
    const at::Tensor part = Multiply(RowsOf(slice, grad_down).t(), RowsOf(slice, a));
    grad_x.addcmul_(part, MaskOf(plan, slice, grad_x));
  }
  return grad_x;
}

struct NarrowLoraFunction : torch::autograd::Function<NarrowLoraFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList tensors,
                            const PlanPtr& plan) {
    const at::Tensor a = StackA(*plan, tensors, x);
    const at::Tensor b = SpreadB(*plan, tensors, x);
    const at::Tensor all = AppendDown(*plan, x, a);
    ctx->save_for_backward({all, a, b});
    ctx->saved_data["plan"] = c10::IValue::make_capsule(plan);
    return UpdatedProduct(*plan, all, b);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const PlanPtr held = PlanIn(ctx->saved_data["plan"]);
    const LoraPlan& plan = *held;
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& a = saved[1];
    const at::Tensor b = saved[2].narrow(0, 0, plan.rank_sum);
    const at::Tensor x = saved[0].narrow(1, 0, a.size(1));
    const at::Tensor down = saved[0].narrow(1, a.size(1), plan.rank_sum).t();
    const at::Tensor grad_y = grads[0].contiguous();
    variable_list result(1 + 2 * plan.slices.size() + 1);
    const at::Tensor grad_down = Multiply(b, grad_y.t()).mul_(plan.scale);  // [sum r, T]
    AdapterGradients(plan, x, down, grad_y, grad_down, result.data() + 1);
    if (ctx->needs_input_grad(0)) {
      result[0] = InputGradient(plan, grad_down, a);
      AddGroupBackProduct(result[0], grad_y, plan.group);
    }
    return result;
  }

  // Fills {dA, dB, ...}, in the type of the adapters.
  static void AdapterGradients(const LoraPlan& plan, const at::Tensor& x, const at::Tensor& down,
                               const at::Tensor& grad_y, const at::Tensor& grad_down,
                               at::Tensor* out) {
    const at::Tensor grad_b = MultiplyWide(down, grad_y);  // Of all pairs of layers.
    const at::Tensor grad_a = plan.dropout == 0 ? MultiplyWide(grad_down, x) : at::Tensor();
    for (size_t i = 0; i < plan.slices.size(); ++i) {
      const LoraPlan::Slice& slice = plan.slices[i];
      out[2 * i] = plan.dropout == 0
                       ? RowsOf(slice, grad_a)
                       : MultiplyWide(RowsOf(slice, grad_down), x * MaskOf(plan, slice, x));
      out[2 * i + 1] = BlockOf(slice, grad_b).t();
    }
  }
};

}  // namespace

at::Tensor NarrowLoraLinear(const at::Tensor& x, at::TensorList tensors, const PlanPtr& plan) {
  return NarrowLoraFunction::apply(x, tensors, plan);
}

}  // namespace lathe
