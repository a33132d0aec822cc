#include "worker/engine/ops/flash_attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>

// T tokens, H query heads, K key heads, E head width.

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kHeadDimMultiple = 8;

// What a call needs beside tensors. One argument: apply() would take a list apart.
struct Layout {
  HeadShape shape;
  bool interleaved = false;
  int64_t longest = 0;
};

// [T, any * E] as [T, any, E], a view.
at::Tensor Heads(const at::Tensor& qkv, int64_t first, int64_t count, int64_t head_dim) {
  return qkv.narrow(1, first * head_dim, count * head_dim).view({qkv.size(0), count, head_dim});
}

struct FlashAttentionFunction : torch::autograd::Function<FlashAttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const at::Tensor& cos,
                            const at::Tensor& sin, const at::Tensor& cumulative,
                            const Layout& layout) {
    const HeadShape& shape = layout.shape;
    const int64_t num_rotated = shape.num_heads + shape.num_kv_heads;
    const at::Tensor rotated =
        RotateHeads(Heads(qkv, 0, num_rotated, shape.head_dim), {cos, sin, layout.interleaved});
    const at::Tensor q = rotated.narrow(1, 0, shape.num_heads);
    const at::Tensor k = rotated.narrow(1, shape.num_heads, shape.num_kv_heads);
    const at::Tensor v = Heads(qkv, num_rotated, shape.num_kv_heads, shape.head_dim);
    const auto [out, log_sum_exp, rng_state, unused, mask] = at::_flash_attention_forward(
        q, k, v, cumulative, cumulative, layout.longest, layout.longest, /*dropout_p=*/0,
        /*is_causal=*/true, /*return_debug_mask=*/false);
    ctx->save_for_backward({q, k, v, out, log_sum_exp, rng_state, unused, cos, sin, cumulative});
    ctx->saved_data["interleaved"] = layout.interleaved;
    ctx->saved_data["longest"] = layout.longest;
    return out.reshape({qkv.size(0), -1});
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3];
    const int64_t longest = ctx->saved_data["longest"].toInt();
    const at::Tensor& cumulative = saved[9];
    const auto [grad_q, grad_k, grad_v] = at::_flash_attention_backward(
        grads[0].view(out.sizes()), q, k, v, out, saved[4], cumulative, cumulative, longest,
        longest, /*dropout_p=*/0, /*is_causal=*/true, saved[5], saved[6]);
    const RopeTable rope = {saved[7], saved[8], ctx->saved_data["interleaved"].toBool()};
    at::Tensor grad = at::empty({q.size(0), q.size(1) + 2 * k.size(1), q.size(2)}, q.options());
    RotateInto(grad_q, rope, /*inverse=*/true, grad.narrow(1, 0, q.size(1)));
    RotateInto(grad_k, rope, /*inverse=*/true, grad.narrow(1, q.size(1), k.size(1)));
    grad.narrow(1, q.size(1) + k.size(1), k.size(1)).copy_(grad_v);
    return {grad.view({q.size(0), -1}), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool HasFlashAttention(const at::Tensor& qkv, const HeadShape& shape) {
  const bool narrow = qkv.scalar_type() == at::kBFloat16 || qkv.scalar_type() == at::kHalf;
  return qkv.is_cuda() && narrow && shape.head_dim <= kMaxHeadDim &&
         shape.head_dim % kHeadDimMultiple == 0;
}

at::Tensor FlashAttention(const at::Tensor& qkv, const RopeTable& rope, const HeadShape& shape,
                          const at::Tensor& cumulative, int64_t longest) {
  const Layout layout = {shape, rope.interleaved, longest};
  return FlashAttentionFunction::apply(qkv, rope.cos, rope.sin, cumulative, layout);
}

}  // namespace lathe
