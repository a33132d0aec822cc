#include "worker/engine/ops/elementwise.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            double eps) {
    const at::Tensor inverse =
        at::mean(x * x, {-1}, /*keepdim=*/true).add_(eps).rsqrt_();  // [T, 1]
    ctx->save_for_backward({x, weight, inverse});
    return at::mul(x, inverse).mul_(weight);
  }

  // With n = x * inverse and g = weight * dy: dx = inverse * (g - n * mean(g * n)).
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& inverse = saved[2];
    const at::Tensor normed = saved[0] * inverse;
    at::Tensor grad = grads[0] * saved[1];
    const at::Tensor mean = at::mean(grad * normed, {-1}, /*keepdim=*/true);
    grad.addcmul_(normed, mean, -1).mul_(inverse);
    return {grad, at::Tensor(), at::Tensor()};
  }
};

struct SwiGluFunction : torch::autograd::Function<SwiGluFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up) {
    ctx->save_for_backward({gate_up});
    const int64_t width = gate_up.size(-1) / 2;
    return at::silu(gate_up.narrow(-1, 0, width)).mul_(gate_up.narrow(-1, width, width));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor gate_up = ctx->get_saved_variables()[0];
    const int64_t width = gate_up.size(-1) / 2;
    const at::Tensor gate = gate_up.narrow(-1, 0, width);
    at::Tensor grad = at::empty_like(gate_up);
    at::Tensor grad_gate = grad.narrow(-1, 0, width);
    at::Tensor grad_up = grad.narrow(-1, width, width);
    at::mul_out(grad_up, grads[0], gate_up.narrow(-1, width, width));
    at::silu_backward_out(grad_gate, grad_up, gate);
    at::silu_out(grad_up, gate);
    grad_up.mul_(grads[0]);
    return {grad};
  }
};

}  // namespace

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return RmsNormFunction::apply(x, weight, eps);
}

at::Tensor SwiGlu(const at::Tensor& gate_up) { return SwiGluFunction::apply(gate_up); }

}  // namespace lathe
