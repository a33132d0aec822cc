#include "worker/engine/ops/trained_linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct TrainedLinearFunction : torch::autograd::Function<TrainedLinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias) {
    ctx->save_for_backward({x, weight});
    return bias.defined() ? at::addmm(bias, x, weight.t()) : at::mm(x, weight.t());
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor& grad = grads[0];
    variable_list result(3);
    if (ctx->needs_input_grad(0)) result[0] = at::mm(grad, weight);
    if (ctx->needs_input_grad(1)) result[1] = at::mm(grad.t(), x);
    if (ctx->needs_input_grad(2)) result[2] = grad.sum(0);
    return result;
  }
};

}  // namespace

at::Tensor TrainedLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return TrainedLinearFunction::apply(x, weight, bias);
}

}  // namespace lathe
