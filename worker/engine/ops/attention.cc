#include "worker/engine/ops/attention.h"

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "worker/engine/ops/attention_aten.h"
#include "worker/engine/ops/device_kernels.h"
#include "worker/engine/ops/flash_attention.h"
#include "worker/engine/ops/for_rows.h"
#include "worker/engine/ops/matrix_product.h"
#include "worker/engine/ops/row_kernels.h"
#include "worker/engine/ops/staging.h"

// G = H / K query heads share one key head. They are stacked as rows of one matrix, so that keys
// are not repeated. Queries go in blocks of at most kBlock rows, each with only the keys before its
// end: half of the work of a full matrix, and the scores stay small. What a block needs is copied
// head by head, so that its products see plain matrices.

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kBlock = 256;

// Heads of [T, any * E] as [T, any, E], a view.
at::Tensor Heads(const at::Tensor& qkv, int64_t first, int64_t count, int64_t head_dim) {
  return qkv.narrow(1, first * head_dim, count * head_dim).view({qkv.size(0), count, head_dim});
}

}  // namespace

void RotateInto(const at::Tensor& x, const RopeTable& rope, bool inverse, const at::Tensor& out) {
  if (const DeviceKernels* kernels = DeviceKernelsFor(x)) {
    return kernels->Rotate(x, rope, inverse, out);
  }
  if (!HasRowKernels(x)) return RotateIntoAten(x, rope, inverse, out);
  const PairTurn turn = {rope.cos.size(-1), x.size(2), rope.interleaved, inverse};
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "RotateHeads", [&] {
    const auto* from = x.const_data_ptr<scalar_t>();
    const auto* cos = rope.cos.const_data_ptr<scalar_t>();
    const auto* sin = rope.sin.const_data_ptr<scalar_t>();
    auto* to = out.data_ptr<scalar_t>();
    ForRows(x.size(0), x.size(1) * x.size(2), [&](int64_t t) {
      for (int64_t head = 0; head < x.size(1); ++head) {
        RotateRow(from + t * x.stride(0) + head * x.stride(1), cos + t * turn.half,
                  sin + t * turn.half, turn, to + t * out.stride(0) + head * out.stride(1));
      }
    });
  });
}

namespace {

// Calls body(row of x, row of the stack) for heads of tokens [begin, end) of x [T, K * G, E],
// stacked as [K, G * rows, E].
template <typename T, typename Body>
void ForStackedRows(const at::Tensor& x, int64_t begin, int64_t end, T* stack, const Body& body) {
  const int64_t rows = end - begin;
  const int64_t width = x.size(2);
  T* data = x.data_ptr<T>();
  ForRows(x.size(1) * rows, width, [&](int64_t i) {
    body(data + (begin + i % rows) * x.stride(0) + i / rows * x.stride(1), stack + i * width);
  });
}

// Rows [begin, end) of [T, K * G, E] as [K, G * rows, E], copied. With G = 1: keys and values.
at::Tensor StackGroups(const at::Tensor& x, int64_t begin, int64_t end, int64_t num_kv_heads) {
  if (!HasRowKernels(x)) return StackGroupsAten(x, begin, end, num_kv_heads);
  const int64_t rows = x.size(1) / num_kv_heads * (end - begin);
  at::Tensor stacked = at::empty({num_kv_heads, rows, x.size(2)}, x.options());
  const auto bytes = static_cast<size_t>(x.size(2) * x.element_size());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "StackGroups", [&] {
    ForStackedRows(x, begin, end, stacked.data_ptr<scalar_t>(),
                   [&](const scalar_t* from, scalar_t* to) { std::memcpy(to, from, bytes); });
  });
  return stacked;
}

// The inverse: adds [K, G * rows, E] to rows of out [T, K * G, E].
void AddUnstacked(const at::Tensor& stacked, int64_t begin, int64_t end, const at::Tensor& out) {
  if (!HasRowKernels(out)) {
    UnstackedViewAten(out, begin, end, stacked.size(0))
        .add_(StackedViewAten(stacked, out, begin, end));
    return;
  }
  const int64_t width = out.size(2);
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "AddUnstacked", [&] {
    ForStackedRows(out, begin, end, stacked.data_ptr<scalar_t>(),
                   [&](scalar_t* to, const scalar_t* from) {
                     for (int64_t i = 0; i < width; ++i) to[i] += from[i];
                   });
  });
}

void CopyUnstacked(const at::Tensor& stacked, int64_t begin, int64_t end, const at::Tensor& out) {
  if (!HasRowKernels(out)) {
    UnstackedViewAten(out, begin, end, stacked.size(0))
        .copy_(StackedViewAten(stacked, out, begin, end));
    return;
  }
  const auto bytes = static_cast<size_t>(out.size(2) * out.element_size());
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "CopyUnstacked", [&] {
    ForStackedRows(out, begin, end, stacked.data_ptr<scalar_t>(),
                   [&](scalar_t* to, const scalar_t* from) { std::memcpy(to, from, bytes); });
  });
}

double ScoreScale(const at::Tensor& q) { return 1 / std::sqrt(static_cast<double>(q.size(2))); }

// Softmax of q k^T / sqrt(E), [K, G * rows, keys]; the last `rows` keys belong to the rows
// themselves, and row i sees them up to i.
at::Tensor Probabilities(const at::Tensor& q, const at::Tensor& k, int64_t rows) {
  const int64_t keys = k.size(1);
  const at::Tensor scores = Multiply(q, k.transpose(1, 2));
  if (!HasRowKernels(scores)) return CausalSoftmaxAten(scores, rows, ScoreScale(q));
  AT_DISPATCH_FLOATING_TYPES(scores.scalar_type(), "Probabilities", [&] {
    auto* data = scores.data_ptr<scalar_t>();
    ForRows(scores.size(0) * scores.size(1), keys, [&](int64_t i) {
      const int64_t row = i % scores.size(1) % rows;
      SoftmaxRow(data + i * keys, keys - rows + row + 1, keys,
                 static_cast<scalar_t>(ScoreScale(q)));
    });
  });
  return scores;
}

// In place: the gradient of probabilities p becomes that of q k^T. Both [K, G * rows, keys].
void SoftmaxBackward(const at::Tensor& p, double scale, const at::Tensor& grad) {
  if (!HasRowKernels(p)) {
    grad.sub_(at::sum(grad * p, {-1}, /*keepdim=*/true)).mul_(p).mul_(scale);
    return;
  }
  const int64_t keys = p.size(2);
  AT_DISPATCH_FLOATING_TYPES(p.scalar_type(), "SoftmaxBackward", [&] {
    const auto* probabilities = p.const_data_ptr<scalar_t>();
    auto* data = grad.data_ptr<scalar_t>();
    ForRows(p.size(0) * p.size(1), keys, [&](int64_t i) {
      SoftmaxGradientRow(probabilities + i * keys, keys, static_cast<scalar_t>(scale),
                         data + i * keys);
    });
  });
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

// Parts of [T, (H + 2 K) E], views [T, any, E].
struct Parts {
  Parts(const at::Tensor& qkv, const HeadShape& shape)
      : q(Heads(qkv, 0, shape.num_heads, shape.head_dim)),
        k(Heads(qkv, shape.num_heads, shape.num_kv_heads, shape.head_dim)),
        v(Heads(qkv, shape.num_heads + shape.num_kv_heads, shape.num_kv_heads, shape.head_dim)),
        rotated(Heads(qkv, 0, shape.num_heads + shape.num_kv_heads, shape.head_dim)) {}
  at::Tensor q, k, v;
  at::Tensor rotated;  // q and k.
};

struct PackedAttentionFunction : torch::autograd::Function<PackedAttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input, const at::Tensor& cos,
                            const at::Tensor& sin, const Layout& layout) {
    const HeadShape& shape = layout.shape;
    const at::Tensor qkv = input.contiguous();
    const Parts parts(qkv, shape);
    const at::Tensor rotated = RotateHeads(parts.rotated, {cos, sin, layout.interleaved});
    const at::Tensor q = rotated.narrow(1, 0, shape.num_heads);
    const at::Tensor k = rotated.narrow(1, shape.num_heads, shape.num_kv_heads);
    at::Tensor out = at::empty({qkv.size(0), shape.num_heads, shape.head_dim}, qkv.options());
    for (const Block& block : Blocks(layout.document_begin)) {
      const auto stack = [&](const at::Tensor& x, int64_t begin) {
        return StackGroups(x, begin, block.end, shape.num_kv_heads);
      };
      const at::Tensor p =
          Probabilities(stack(q, block.begin), stack(k, block.document), block.end - block.begin);
      CopyUnstacked(Multiply(p, stack(parts.v, block.document)), block.begin, block.end, out);
    }
    ctx->save_for_backward({qkv, cos, sin});
    ctx->saved_data["documents"] = layout.document_begin;
    ctx->saved_data["interleaved"] = layout.interleaved;
    ctx->saved_data["shape"] =
        std::vector<int64_t>{shape.num_heads, shape.num_kv_heads, shape.head_dim};
    return out.view({qkv.size(0), -1});
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const std::vector<int64_t> dims = ctx->saved_data["shape"].toIntVector();
    const HeadShape shape = {dims[0], dims[1], dims[2]};
    const RopeTable rope = {saved[1], saved[2], ctx->saved_data["interleaved"].toBool()};
    const Parts parts(saved[0], shape);
    const at::Tensor rotated = RotateHeads(parts.rotated, rope);
    const at::Tensor grad_out = Heads(grads[0].contiguous(), 0, shape.num_heads, shape.head_dim);
    at::Tensor grad_qkv = at::zeros_like(saved[0]);
    const Parts grad(grad_qkv, shape);
    for (const Block& block : Blocks(ctx->saved_data["documents"].toIntVector())) {
      BlockBackward(block, shape, rotated, parts.v, grad_out, grad);
    }
    RotateInto(grad.rotated, rope, /*inverse=*/true, grad.rotated);
    return {grad_qkv, at::Tensor(), at::Tensor(), at::Tensor()};
  }

  // With P the probabilities, O = P V: dV = P^T dO; dS = P * (dP - rowsum(P * dP)), dP = dO V^T; dQ
  // = dS K / sqrt(E); dK = dS^T Q / sqrt(E). Source: Dao et al., "FlashAttention", 2022, appendix
  // B.
  static void BlockBackward(const Block& block, const HeadShape& shape, const at::Tensor& rotated,
                            const at::Tensor& values, const at::Tensor& grad_out,
                            const Parts& grad) {
    const auto stack = [&](const at::Tensor& x, int64_t begin) {
      return StackGroups(x, begin, block.end, shape.num_kv_heads);
    };
    const at::Tensor q = stack(rotated.narrow(1, 0, shape.num_heads), block.begin);
    const at::Tensor k =
        stack(rotated.narrow(1, shape.num_heads, shape.num_kv_heads), block.document);
    const at::Tensor v = stack(values, block.document);
    const at::Tensor grad_o = stack(grad_out, block.begin);
    const at::Tensor p = Probabilities(q, k, block.end - block.begin);
    AddUnstacked(Multiply(p.transpose(1, 2), grad_o), block.document, block.end, grad.v);
    const at::Tensor grad_scores = Multiply(grad_o, v.transpose(1, 2));
    SoftmaxBackward(p, ScoreScale(q), grad_scores);
    CopyUnstacked(Multiply(grad_scores, k), block.begin, block.end, grad.q);
    AddUnstacked(Multiply(grad_scores.transpose(1, 2), q), block.document, block.end, grad.k);
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
    const auto seen = [&](const at::Tensor& x) {
      return x.narrow(0, 0, old + end).transpose(0, 1);
    };
    const at::Tensor p =
        Probabilities(StackGroups(q, begin, end, num_kv_heads), seen(keys), end - begin);
    CopyUnstacked(Multiply(p, seen(values)), begin, end, out);
  }
  return out.view({q.size(0), -1});
}

}  // namespace lathe
