#include "worker/engine/ops/elementwise.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstring>

#include "worker/engine/ops/device_kernels.h"
#include "worker/engine/ops/elementwise_aten.h"
#include "worker/engine/ops/for_rows.h"
#include "worker/engine/ops/row_kernels.h"

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Norms of the first N of the heads of x [T, heads * E], each with its own row of weight [N, E];
// the others pass. One head of width D is a plain RmsNorm.
struct HeadNorms {
  explicit HeadNorms(const at::Tensor& x, const at::Tensor& weight)
      : count(weight.dim() == 1 ? 1 : weight.size(0)),
        head_width(weight.size(-1)),
        row_width(x.size(1)),
        rest(static_cast<size_t>((row_width - count * head_width) * x.element_size())) {}

  int64_t count;       // N
  int64_t head_width;  // E
  int64_t row_width;
  size_t rest;  // Bytes that pass.
};

// Whether the functions here can compute with rows as wide as x; else those of ATen do.
bool HasKernels(const at::Tensor& x) { return HasRowKernels(x) || DeviceKernelsFor(x) != nullptr; }

template <typename T>
void NormRows(const HeadNorms& norms, const at::Tensor& x, const at::Tensor& weight, double eps,
              const at::Tensor& y, const at::Tensor& inverse) {
  const auto* from = x.const_data_ptr<T>();
  const auto* weights = weight.const_data_ptr<T>();
  auto* to = y.data_ptr<T>();
  auto* inverses = inverse.data_ptr<T>();
  ForRows(x.size(0), norms.row_width, [&](int64_t row) {
    const int64_t begin = row * norms.row_width;
    for (int64_t n = 0; n < norms.count; ++n) {
      const int64_t at = n * norms.head_width;
      inverses[row * norms.count + n] =
          RmsNormRow(from + begin + at, weights + at, norms.head_width, eps, to + begin + at);
    }
    const int64_t rest = begin + norms.count * norms.head_width;
    std::memcpy(to + rest, from + rest, norms.rest);
  });
}

template <typename T>
void NormGradientRows(const HeadNorms& norms, const at::Tensor& grad_y, const at::Tensor& x,
                      const at::Tensor& weight, const at::Tensor& inverse,
                      const at::Tensor& grad_x) {
  const auto* from = x.const_data_ptr<T>();
  const auto* grad = grad_y.const_data_ptr<T>();
  const auto* weights = weight.const_data_ptr<T>();
  const auto* inverses = inverse.const_data_ptr<T>();
  auto* to = grad_x.data_ptr<T>();
  ForRows(x.size(0), norms.row_width, [&](int64_t row) {
    const int64_t begin = row * norms.row_width;
    for (int64_t n = 0; n < norms.count; ++n) {
      const int64_t at = begin + n * norms.head_width;
      RmsNormGradientRow(grad + at, from + at, weights + n * norms.head_width,
                         inverses[row * norms.count + n], norms.head_width, to + at);
    }
    const int64_t rest = begin + norms.count * norms.head_width;
    std::memcpy(to + rest, grad + rest, norms.rest);
  });
}

void NormAll(const HeadNorms& norms, const at::Tensor& x, const at::Tensor& weight, double eps,
             const at::Tensor& y, const at::Tensor& inverse) {
  if (const DeviceKernels* kernels = DeviceKernelsFor(x)) {
    if (norms.rest > 0) y.copy_(x);
    return kernels->RmsNorm(x, weight, norms.head_width, eps, y, inverse);
  }
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "RmsNorm",
                             [&] { NormRows<scalar_t>(norms, x, weight, eps, y, inverse); });
}

void NormGradientAll(const HeadNorms& norms, const at::Tensor& grad_y, const at::Tensor& x,
                     const at::Tensor& weight, const at::Tensor& inverse,
                     const at::Tensor& grad_x) {
  if (const DeviceKernels* kernels = DeviceKernelsFor(x)) {
    if (norms.rest > 0) grad_x.copy_(grad_y);
    return kernels->RmsNormGradient(grad_y, x, weight, norms.head_width, inverse, grad_x);
  }
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "RmsNormBackward", [&] {
    NormGradientRows<scalar_t>(norms, grad_y, x, weight, inverse, grad_x);
  });
}

// dweight of the same: dy * x * inverse summed over the tokens.
at::Tensor NormWeightGradient(const HeadNorms& norms, const at::Tensor& grad_y, const at::Tensor& x,
                              const at::Tensor& weight, const at::Tensor& inverse) {
  const auto heads = [&](const at::Tensor& rows) {
    return rows.narrow(1, 0, norms.count * norms.head_width)
        .view({rows.size(0), norms.count, norms.head_width});
  };
  const at::Tensor normed = heads(x) * inverse.unsqueeze(2);
  return at::sum(heads(grad_y) * normed, {0}).view(weight.sizes());
}

struct HeadNormsFunction : torch::autograd::Function<HeadNormsFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input, const at::Tensor& weight,
                            double eps) {
    const at::Tensor x = input.contiguous();
    const HeadNorms norms(x, weight);
    at::Tensor y = at::empty_like(x);
    // Of the weight's type: wide.
    const at::Tensor inverse =
        at::empty({x.size(0), norms.count}, weight.options().requires_grad(false));
    NormAll(norms, x, weight, eps, y, inverse);
    ctx->save_for_backward({x, weight, inverse});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor grad_y = grads[0].contiguous();
    const HeadNorms norms(x, saved[1]);
    variable_list result(3);
    if (ctx->needs_input_grad(0)) {
      result[0] = at::empty_like(x);
      NormGradientAll(norms, grad_y, x, saved[1], saved[2], result[0]);
    }
    if (ctx->needs_input_grad(1)) {
      result[1] = NormWeightGradient(norms, grad_y, x, saved[1], saved[2]);
    }
    return result;
  }
};

// Calls body(row, gate, up) with pointers into gate_up [T, 2 I].
template <typename T, typename Body>
void ForGatesAndUps(const at::Tensor& gate_up, Body body) {
  const int64_t width = gate_up.size(1) / 2;
  const auto* from = gate_up.const_data_ptr<T>();
  ForRows(gate_up.size(0), width, [&](int64_t row) {
    const T* gate = from + row * 2 * width;
    body(row, gate, gate + width);
  });
}

void SwiGluAll(const at::Tensor& gate_up, const at::Tensor& y) {
  if (const DeviceKernels* kernels = DeviceKernelsFor(y)) return kernels->SwiGlu(gate_up, y);
  const int64_t width = y.size(1);
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "SwiGlu", [&] {
    auto* to = y.data_ptr<scalar_t>();
    ForGatesAndUps<scalar_t>(gate_up, [&](int64_t row, const scalar_t* gate, const scalar_t* up) {
      SwiGluRow(gate, up, width, to + row * width);
    });
  });
}

void SwiGluGradientAll(const at::Tensor& grad_y, const at::Tensor& gate_up,
                       const at::Tensor& grad) {
  if (const DeviceKernels* kernels = DeviceKernelsFor(grad_y)) {
    return kernels->SwiGluGradient(grad_y, gate_up, grad);
  }
  const int64_t width = grad_y.size(1);
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "SwiGluBackward", [&] {
    const auto* from = grad_y.const_data_ptr<scalar_t>();
    auto* to = grad.data_ptr<scalar_t>();
    ForGatesAndUps<scalar_t>(gate_up, [&](int64_t row, const scalar_t* gate, const scalar_t* up) {
      scalar_t* grad_gate = to + row * 2 * width;
      SwiGluGradientRow(from + row * width, gate, up, width, grad_gate, grad_gate + width);
    });
  });
}

struct SwiGluFunction : torch::autograd::Function<SwiGluFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input) {
    const at::Tensor gate_up = input.contiguous();
    const int64_t width = gate_up.size(1) / 2;
    at::Tensor y = at::empty({gate_up.size(0), width}, gate_up.options());
    SwiGluAll(gate_up, y);
    ctx->save_for_backward({gate_up});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor gate_up = ctx->get_saved_variables()[0];
    at::Tensor grad = at::empty_like(gate_up);
    SwiGluGradientAll(grads[0].contiguous(), gate_up, grad);
    return {grad};
  }
};

struct GatedGeluFunction : torch::autograd::Function<GatedGeluFunction> {
  static constexpr const char* kTanh = "tanh";

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up) {
    ctx->save_for_backward({gate_up});
    const int64_t width = gate_up.size(-1) / 2;
    return at::gelu(gate_up.narrow(-1, 0, width), kTanh).mul_(gate_up.narrow(-1, width, width));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor gate_up = ctx->get_saved_variables()[0];
    const int64_t width = gate_up.size(-1) / 2;
    const at::Tensor gate = gate_up.narrow(-1, 0, width);
    at::Tensor grad = at::empty_like(gate_up);
    const at::Tensor grad_activation = grads[0] * gate_up.narrow(-1, width, width);
    grad.narrow(-1, 0, width).copy_(at::gelu_backward(grad_activation, gate, kTanh));
    grad.narrow(-1, width, width).copy_(at::gelu(gate, kTanh).mul_(grads[0]));
    return {grad};
  }
};

}  // namespace

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return HasKernels(x) ? HeadNormsFunction::apply(x, weight, eps) : RmsNormAten(x, weight, eps);
}

at::Tensor NormHeads(const at::Tensor& qkv, const at::Tensor& weight, double eps) {
  return HasKernels(qkv.narrow(1, 0, weight.size(-1))) ? HeadNormsFunction::apply(qkv, weight, eps)
                                                       : NormHeadsAten(qkv, weight, eps);
}

at::Tensor SwiGlu(const at::Tensor& gate_up) {
  const at::Tensor gate = gate_up.narrow(-1, 0, gate_up.size(-1) / 2);
  return HasKernels(gate) ? SwiGluFunction::apply(gate_up) : SwiGluAten(gate_up);
}

at::Tensor GatedGelu(const at::Tensor& gate_up) { return GatedGeluFunction::apply(gate_up); }

}  // namespace lathe
