#include "worker/engine/ops/attention.h"

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "worker/engine/ops/flash_attention.h"
#include "worker/engine/ops/matrix_product.h"
#include "worker/engine/ops/staging.h"

// G = H / K query heads share one key head. They are stacked as rows of one matrix, so that keys
// are not repeated. Queries go in blocks of at most kBlock rows, each with only the keys before its
// end: half of the work of a full matrix, and the scores stay small.

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kBlock = 256;

// Heads of [T, any * E] as [T, any, E], a view.
at::Tensor Heads(const at::Tensor& qkv, int64_t first, int64_t count, int64_t head_dim) {
  return qkv.narrow(1, first * head_dim, count * head_dim).view({qkv.size(0), count, head_dim});
}

// The first or second values of all pairs of x [T, any, E], a view.
at::Tensor PairSide(const at::Tensor& x, const RopeTable& rope, int64_t side) {
  const int64_t half = rope.cos.size(-1);
  return rope.interleaved ? x.slice(-1, side, 2 * half, 2) : x.narrow(-1, side * half, half);
}

// out = x rotated by the table's angles, or back.
void RotateInto(const at::Tensor& x, const RopeTable& rope, bool inverse, const at::Tensor& out) {
  const at::Tensor cos = rope.cos.unsqueeze(1);  // [T, 1, R / 2]
  const at::Tensor sin = rope.sin.unsqueeze(1);
  const at::Tensor first = PairSide(x, rope, 0);
  const at::Tensor second = PairSide(x, rope, 1);
  const double sign = inverse ? -1 : 1;
  at::Tensor out_first = PairSide(out, rope, 0);
  at::Tensor out_second = PairSide(out, rope, 1);
  at::mul_out(out_first, first, cos).addcmul_(second, sin, -sign);
  at::mul_out(out_second, second, cos).addcmul_(first, sin, sign);
  const int64_t turned = 2 * rope.cos.size(-1);
  const int64_t rest = x.size(-1) - turned;
  if (rest > 0) out.narrow(-1, turned, rest).copy_(x.narrow(-1, turned, rest));
}

// Rows [begin, end) of [T, K * G, E] as [K, G * rows, E], copied.
at::Tensor StackGroups(const at::Tensor& x, int64_t begin, int64_t end, int64_t num_kv_heads) {
  const int64_t group = x.size(1) / num_kv_heads;
  return x.narrow(0, begin, end - begin)
      .view({end - begin, num_kv_heads, group, x.size(2)})
      .permute({1, 2, 0, 3})
      .reshape({num_kv_heads, group * (end - begin), x.size(2)});
}

// The inverse: writes [K, G * rows, E] to rows of out [T, K * G, E].
void UnstackGroups(const at::Tensor& stacked, int64_t begin, int64_t end, const at::Tensor& out) {
  const int64_t kv = stacked.size(0);
  const int64_t group = out.size(1) / kv;
  out.narrow(0, begin, end - begin)
      .view({end - begin, kv, group, out.size(2)})
      .copy_(stacked.view({kv, group, end - begin, out.size(2)}).permute({2, 0, 1, 3}));
}

// Softmax of q k^T / sqrt(E), [K, G * rows, keys]; the last `rows` keys belong to the rows
// themselves, and row i sees them up to i.
at::Tensor Probabilities(const at::Tensor& q, const at::Tensor& k, int64_t rows) {
  const int64_t keys = k.size(1);
  at::Tensor scores = Multiply(q, k.transpose(1, 2));
  scores.mul_(1 / std::sqrt(static_cast<double>(q.size(2))));
  if (rows > 1) {
    const at::Tensor hidden = at::ones({rows, rows}, scores.options().dtype(at::kBool)).triu_(1);
    scores.view({k.size(0), -1, rows, keys})
        .narrow(3, keys - rows, rows)
        .masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  }
  return at::_softmax(scores, -1, /*half_to_float=*/false);
}

// What a call needs beside tensors. One argument: apply() would take a list apart.
struct Layout {
  HeadShape shape;
  bool interleaved = false;
  std::vector<int64_t> document_begin;
};

struct Block {
  int64_t document;  // First token of the document: keys begin here.
  int64_t begin;     // Query rows [begin, end).
  int64_t end;
};

std::vector<Block> Blocks(at::IntArrayRef document_begin) {
  std::vector<Block> blocks;
  for (size_t d = 0; d + 1 < document_begin.size(); ++d) {
    const int64_t end = document_begin[d + 1];
    for (int64_t begin = document_begin[d]; begin < end; begin += kBlock) {
      blocks.push_back({document_begin[d], begin, std::min(begin + kBlock, end)});
    }
  }
  return blocks;
}

// Keys or values [T, K, E] that a block sees, as [K, keys, E], a view.
at::Tensor KeysOf(const at::Tensor& x, const Block& block) {
  return x.narrow(0, block.document, block.end - block.document).transpose(0, 1);
}

struct PackedAttentionFunction : torch::autograd::Function<PackedAttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const at::Tensor& cos,
                            const at::Tensor& sin, const Layout& layout) {
    const HeadShape& shape = layout.shape;
    const int64_t num_rotated = shape.num_heads + shape.num_kv_heads;
    const at::Tensor rotated = RotateHeads(Heads(qkv, 0, num_rotated, shape.head_dim),
                                           {cos, sin, layout.interleaved});  // [T, H + K, E]
    const at::Tensor q = rotated.narrow(1, 0, shape.num_heads);
    const at::Tensor k = rotated.narrow(1, shape.num_heads, shape.num_kv_heads);
    const at::Tensor v = Heads(qkv, num_rotated, shape.num_kv_heads, shape.head_dim);
    at::Tensor out = at::empty({qkv.size(0), shape.num_heads, shape.head_dim}, qkv.options());
    for (const Block& block : Blocks(layout.document_begin)) {
      const at::Tensor p = Probabilities(StackGroups(q, block.begin, block.end, shape.num_kv_heads),
                                         KeysOf(k, block), block.end - block.begin);
      UnstackGroups(Multiply(p, KeysOf(v, block)), block.begin, block.end, out);
    }
    at::Tensor flat = out.view({qkv.size(0), -1});
    ctx->save_for_backward({qkv, rotated, cos, sin, flat});
    ctx->saved_data["documents"] = layout.document_begin;
    ctx->saved_data["interleaved"] = layout.interleaved;
    ctx->saved_data["shape"] =
        std::vector<int64_t>{shape.num_heads, shape.num_kv_heads, shape.head_dim};
    return flat;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const std::vector<int64_t> dims = ctx->saved_data["shape"].toIntVector();
    const HeadShape shape = {dims[0], dims[1], dims[2]};
    const int64_t num_rotated = shape.num_heads + shape.num_kv_heads;
    const at::Tensor& qkv = saved[0];
    const at::Tensor v = Heads(qkv, num_rotated, shape.num_kv_heads, shape.head_dim);
    at::Tensor grad_rotated = at::zeros_like(saved[1]);
    at::Tensor grad_qkv = at::zeros_like(qkv);
    const std::vector<int64_t> documents = ctx->saved_data["documents"].toIntVector();
    for (const Block& block : Blocks(documents)) {
      BlockBackward(block, shape, saved[1], v, Heads(saved[4], 0, shape.num_heads, shape.head_dim),
                    Heads(grads[0], 0, shape.num_heads, shape.head_dim), grad_rotated,
                    Heads(grad_qkv, num_rotated, shape.num_kv_heads, shape.head_dim));
    }
    const RopeTable rope = {saved[2], saved[3], ctx->saved_data["interleaved"].toBool()};
    RotateInto(grad_rotated, rope, /*inverse=*/true,
               Heads(grad_qkv, 0, num_rotated, shape.head_dim));
    return {grad_qkv, at::Tensor(), at::Tensor(), at::Tensor()};
  }

  // With P the probabilities, O = P V: dV = P^T dO; dS = P * (dO V^T - rowsum(dO * O)); dQ = dS K /
  // sqrt(E); dK = dS^T Q / sqrt(E). Source: Dao et al., "FlashAttention", 2022, appendix B.
  static void BlockBackward(const Block& block, const HeadShape& shape, const at::Tensor& rotated,
                            const at::Tensor& v, const at::Tensor& out, const at::Tensor& grad_out,
                            const at::Tensor& grad_rotated, const at::Tensor& grad_v) {
    const double scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
    const auto stack = [&](const at::Tensor& x) {
      return StackGroups(x, block.begin, block.end, shape.num_kv_heads);
    };
    const at::Tensor q = stack(rotated.narrow(1, 0, shape.num_heads));
    const at::Tensor k = KeysOf(rotated.narrow(1, shape.num_heads, shape.num_kv_heads), block);
    const at::Tensor p = Probabilities(q, k, block.end - block.begin);
    const at::Tensor grad = stack(grad_out);
    KeysOf(grad_v, block).add_(Multiply(p.transpose(1, 2), grad));
    const at::Tensor row = at::sum(grad * stack(out), {-1}, /*keepdim=*/true);
    const at::Tensor grad_scores =
        Multiply(grad, KeysOf(v, block).transpose(1, 2)).sub_(row).mul_(p).mul_(scale);
    UnstackGroups(Multiply(grad_scores, k), block.begin, block.end,
                  grad_rotated.narrow(1, 0, shape.num_heads));
    KeysOf(grad_rotated.narrow(1, shape.num_heads, shape.num_kv_heads), block)
        .add_(Multiply(grad_scores.transpose(1, 2), q));
  }
};

int64_t LongestDocument(const std::vector<int32_t>& document_begin) {
  int64_t longest = 0;
  for (size_t d = 0; d + 1 < document_begin.size(); ++d) {
    longest = std::max<int64_t>(longest, document_begin[d + 1] - document_begin[d]);
  }
  return longest;
}

}  // namespace

RopeTable MakeRopeTable(const at::Tensor& positions, const at::Tensor& frequencies,
                        bool interleaved) {
  const at::Tensor angle =
      positions.to(frequencies.scalar_type()).unsqueeze(1) * frequencies.unsqueeze(0);
  return {at::cos(angle), at::sin(angle), interleaved};
}

at::Tensor RotateHeads(const at::Tensor& x, const RopeTable& rope) {
  at::Tensor out = at::empty(x.sizes(), x.options());
  RotateInto(x, rope, /*inverse=*/false, out);
  return out;
}

at::Tensor PackedAttention(const at::Tensor& qkv, const RopeTable& rope, const HeadShape& shape,
                           const std::vector<int32_t>& document_begin,
                           const at::Tensor& cumulative) {
  if (HasFlashAttention(qkv, shape)) {
    const at::Tensor there =
        cumulative.defined() ? cumulative : Stage(document_begin, qkv.device());
    return FlashAttention(qkv, rope, shape, there, LongestDocument(document_begin));
  }
  const Layout layout = {shape, rope.interleaved, {document_begin.begin(), document_begin.end()}};
  return PackedAttentionFunction::apply(qkv, rope.cos, rope.sin, layout);
}

at::Tensor AttendToCache(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values) {
  const int64_t old = keys.size(0) - q.size(0);
  const int64_t num_kv_heads = keys.size(1);
  at::Tensor out = at::empty(q.sizes(), q.options());
  for (int64_t begin = 0; begin < q.size(0); begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, q.size(0));
    const Block block = {0, begin, old + end};
    const at::Tensor p =
        Probabilities(StackGroups(q, begin, end, num_kv_heads), KeysOf(keys, block), end - begin);
    UnstackGroups(Multiply(p, KeysOf(values, block)), begin, end, out);
  }
  return out.view({q.size(0), -1});
}

}  // namespace lathe
