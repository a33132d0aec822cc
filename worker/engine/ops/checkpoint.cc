#include "worker/engine/ops/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Body : torch::CustomClassHolder {
  std::function<at::Tensor(const at::Tensor&)> run;
  bool needs_input_grad = true;  // Of the caller's x.
};

struct CheckpointFunction : torch::autograd::Function<CheckpointFunction> {
  // apply() runs it without grad mode: nothing inside of body keeps a tensor.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const c10::intrusive_ptr<Body>& body) {
    ctx->save_for_backward({x});
    ctx->saved_data["body"] = c10::IValue::make_capsule(body);
    return body->run(x);
  }

  // A backward pass inside of the backward pass: it adds to the gradients of the leaves that body
  // uses, whichever they are, and calls their hooks.
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto capsule = ctx->saved_data["body"].toCapsule();
    const auto& body = static_cast<const Body&>(*capsule);
    const at::AutoGradMode grad_mode(true);
    const at::Tensor x = ctx->get_saved_variables()[0].detach();
    x.set_requires_grad(body.needs_input_grad);
    const at::Tensor y = body.run(x);
    if (y.requires_grad()) torch::autograd::backward({y}, {grads[0]});
    return {x.grad(), at::Tensor()};
  }
};

}  // namespace

at::Tensor Checkpoint(const at::Tensor& x, std::function<at::Tensor(const at::Tensor&)> body) {
  if (!at::GradMode::is_enabled()) return body(x);
  auto held = c10::make_intrusive<Body>();
  held->run = std::move(body);
  held->needs_input_grad = x.requires_grad();
  // Leaves inside of body are hidden from autograd: x stands for them.
  const at::Tensor input = x.requires_grad() ? x : x.detach().set_requires_grad(true);
  return CheckpointFunction::apply(input, held);
}

}  // namespace lathe
