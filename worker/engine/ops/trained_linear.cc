#include "worker/engine/ops/trained_linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "worker/engine/ops/matrix_product.h"

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// apply() takes no undefined tensor, only none at all.
using MaybeTensor = std::optional<at::Tensor>;

// A leaf whose gradient has its memory already: a product can be added there.
bool HasGradientMemory(const at::Tensor& weight) {
  return weight.is_leaf() && weight.grad().defined() &&
         weight.grad().scalar_type() == weight.scalar_type() && weight.grad().is_contiguous();
}

struct TrainedLinearFunction : torch::autograd::Function<TrainedLinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const MaybeTensor& bias) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["has_bias"] = bias.has_value();
    const at::Tensor y = Multiply(x, weight.t());
    return bias ? y.add_(*bias) : y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor& grad = grads[0];
    variable_list result(3);
    if (ctx->needs_input_grad(0)) result[0] = Multiply(grad, weight);
    if (ctx->needs_input_grad(1)) {
      if (HasGradientMemory(weight)) {
        // Three passes over memory as large as the weight less than a gradient that autograd adds.
        // Autograd is given none, and calls the hook of the weight all the same.
        AddProduct(weight.grad(), grad.t(), x);
      } else {
        result[1] = Multiply(grad.t(), x);
      }
    }
    if (ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2)) result[2] = grad.sum(0);
    return result;
  }
};

}  // namespace

at::Tensor TrainedLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return TrainedLinearFunction::apply(x, weight, bias.defined() ? MaybeTensor(bias) : std::nullopt);
}

}  // namespace lathe
