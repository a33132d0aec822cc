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
  std::function<at::Tensor(const std::vector<at::Tensor>&)> run;
  std::vector<bool> needs_grad;  // Of the caller's inputs.
};

struct CheckpointFunction : torch::autograd::Function<CheckpointFunction> {
  // apply() runs it without grad mode: nothing inside of body keeps a tensor.
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs,
                            const c10::intrusive_ptr<Body>& body) {
    ctx->save_for_backward(inputs.vec());
    ctx->saved_data["body"] = c10::IValue::make_capsule(body);
    return body->run(inputs.vec());
  }

  // A backward pass inside of the backward pass: it adds to the gradients of the leaves that body
  // uses, whichever they are, and calls their hooks.
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto capsule = ctx->saved_data["body"].toCapsule();
    const auto& body = static_cast<const Body&>(*capsule);
    const at::AutoGradMode grad_mode(true);
    variable_list inputs = ctx->get_saved_variables();
    for (size_t i = 0; i < inputs.size(); ++i) {
      inputs[i] = inputs[i].detach().set_requires_grad(body.needs_grad[i]);
    }
    const at::Tensor y = body.run(inputs);
    if (y.requires_grad()) torch::autograd::backward({y}, {grads[0]});
    variable_list result;
    for (const at::Tensor& input : inputs) result.push_back(input.grad());
    result.emplace_back();
    return result;
  }
};

}  // namespace

at::Tensor Checkpoint(const std::vector<at::Tensor>& inputs,
                      std::function<at::Tensor(const std::vector<at::Tensor>&)> body) {
  if (!at::GradMode::is_enabled()) return body(inputs);
  auto held = c10::make_intrusive<Body>();
  held->run = std::move(body);
  for (const at::Tensor& input : inputs) held->needs_grad.push_back(input.requires_grad());
  // Leaves inside of body are hidden from autograd: the first input stands for them.
  std::vector<at::Tensor> shown = inputs;
  if (!shown[0].requires_grad()) shown[0] = shown[0].detach().set_requires_grad(true);
  return CheckpointFunction::apply(at::TensorList(shown), held);
}

}  // namespace lathe
