#include "worker/engine/ops/elementwise_aten.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// dx of y = weight * x * inverse with inverse = 1 / sqrt(mean(x^2) + eps). With n = x * inverse and
// g = weight * dy: dx = inverse * (g - n * mean(g * n)).
at::Tensor RmsNormBackward(const at::Tensor& grad_y, const at::Tensor& x, const at::Tensor& weight,
                           const at::Tensor& inverse) {
  const at::Tensor normed = x * inverse;
  at::Tensor grad = grad_y * weight;
  const at::Tensor mean = at::mean(grad * normed, {-1}, /*keepdim=*/true);
  return grad.addcmul_(normed, mean, -1).mul_(inverse);
}

// dweight of the same: dy * n summed over the tokens, the first dimension.
at::Tensor RmsNormWeightGradient(const at::Tensor& grad_y, const at::Tensor& x,
                                 const at::Tensor& inverse) {
  return at::sum((x * inverse).mul_(grad_y), {0});
}

at::Tensor InverseRms(const at::Tensor& x, double eps) {
  return at::mean(x * x, {-1}, /*keepdim=*/true).add_(eps).rsqrt_();
}

// 16 bits are too few for sums: norms compute in 32, as transformers does.
at::Tensor Wide(const at::Tensor& x) {
  return at::isReducedFloatingType(x.scalar_type()) ? x.to(at::kFloat) : x;
}

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            double eps) {
    const at::Tensor inverse = InverseRms(Wide(x), eps);  // [T, 1]
    ctx->save_for_backward({x, weight, inverse});
    return at::mul(Wide(x), inverse).mul_(weight).to(x.scalar_type());
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    variable_list result(3);
    if (ctx->needs_input_grad(0)) {
      result[0] = RmsNormBackward(Wide(grads[0]), Wide(saved[0]), saved[1], saved[2])
                      .to(grads[0].scalar_type());
    }
    if (ctx->needs_input_grad(1)) {
      result[1] = RmsNormWeightGradient(Wide(grads[0]), Wide(saved[0]), saved[2]);
    }
    return result;
  }
};

// The first `count` heads of [T, any * E] as [T, count, E], a view.
at::Tensor FirstHeads(const at::Tensor& qkv, int64_t count, int64_t head_dim) {
  return qkv.narrow(1, 0, count * head_dim).view({qkv.size(0), count, head_dim});
}

struct NormHeadsFunction : torch::autograd::Function<NormHeadsFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const at::Tensor& weight,
                            double eps) {
    const at::Tensor heads = FirstHeads(qkv, weight.size(0), weight.size(1));
    const at::Tensor inverse = InverseRms(Wide(heads), eps);  // [T, N, 1]
    ctx->save_for_backward({qkv, weight, inverse});
    at::Tensor out = qkv.clone();
    FirstHeads(out, weight.size(0), weight.size(1))
        .copy_(at::mul(Wide(heads), inverse).mul_(weight));
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& weight = saved[1];
    const auto first = [&](const at::Tensor& x) {
      return FirstHeads(x, weight.size(0), weight.size(1));
    };
    const at::Tensor grad = grads[0].clone(at::MemoryFormat::Contiguous);
    at::Tensor grad_weight;
    if (ctx->needs_input_grad(1)) {
      grad_weight = RmsNormWeightGradient(Wide(first(grad)), Wide(first(saved[0])), saved[2]);
    }
    first(grad).copy_(RmsNormBackward(Wide(first(grad)), Wide(first(saved[0])), weight, saved[2]));
    return {grad, grad_weight, at::Tensor()};
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

at::Tensor RmsNormAten(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return RmsNormFunction::apply(x, weight, eps);
}

at::Tensor NormHeadsAten(const at::Tensor& qkv, const at::Tensor& weight, double eps) {
  return NormHeadsFunction::apply(qkv, weight, eps);
}

at::Tensor SwiGluAten(const at::Tensor& gate_up) { return SwiGluFunction::apply(gate_up); }

}  // namespace lathe
