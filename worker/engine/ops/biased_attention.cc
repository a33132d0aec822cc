#include "worker/engine/ops/biased_attention.h"

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>

#include "worker/engine/ops/matrix_product.h"

// Queries go in blocks of at most kBlock rows, so that the scores stay small; a causal block has
// only the keys before its end.

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kBlock = 256;

// What a call needs beside what has a gradient. One argument: apply() would take a list apart.
struct Plan {
  ScoreShape shape;
  std::vector<int64_t> query_begin;
  std::vector<int64_t> key_begin;
};

struct Block {
  int64_t begin = 0;  // Query rows [begin, end).
  int64_t end = 0;
  int64_t position = 0;   // Of the first one, in its document.
  int64_t key_begin = 0;  // Key rows [key_begin, key_end) are seen by any of them.
  int64_t key_end = 0;
};

std::vector<Block> Blocks(at::IntArrayRef query_begin, at::IntArrayRef key_begin, bool causal) {
  std::vector<Block> blocks;
  for (size_t d = 0; d + 1 < query_begin.size(); ++d) {
    const int64_t end = query_begin[d + 1];
    for (int64_t begin = query_begin[d]; begin < end; begin += kBlock) {
      const int64_t block_end = std::min(begin + kBlock, end);
      const int64_t seen = key_begin[d] + block_end - query_begin[d];
      blocks.push_back({.begin = begin,
                        .end = block_end,
                        .position = begin - query_begin[d],
                        .key_begin = key_begin[d],
                        .key_end = causal ? seen : key_begin[d + 1]});
    }
  }
  return blocks;
}

// Rows [begin, end) of [T, H, E] as [H, rows, E], a view.
at::Tensor RowsOf(const at::Tensor& x, int64_t begin, int64_t end) {
  return x.narrow(0, begin, end - begin).transpose(0, 1);
}

// [T, any * E] from column first * E on as [T, H, E], a view.
at::Tensor Heads(const at::Tensor& x, int64_t first, int64_t num_heads, int64_t head_dim) {
  return x.narrow(1, first * head_dim, num_heads * head_dim).view({x.size(0), num_heads, head_dim});
}

// The biases of rows x keys, [H, rows, keys], the first row at `position`. A row is a window of the
// columns, and that of the next row begins one column before it.
at::Tensor BiasOf(const at::Tensor& bias, int64_t position, int64_t rows, int64_t keys) {
  const int64_t first = (bias.size(1) - 1) / 2 - (position + rows - 1);  // Of the last row.
  return bias.narrow(1, first, rows + keys - 1).unfold(1, keys, 1).flip({1});
}

// Adds the gradient of such biases, [H, rows, keys], to that of all of them.
void AddBiasGradient(const at::Tensor& grad, int64_t position, const at::Tensor& grad_bias) {
  const int64_t rows = grad.size(1);
  const int64_t keys = grad.size(2);
  const int64_t width = rows + keys - 1;
  const int64_t first = (grad_bias.size(1) - 1) / 2 - (position + rows - 1);
  // Every row at its window, last row first: one column is then one distance.
  at::Tensor windows = at::zeros({grad.size(0), rows, width}, grad.options());
  windows.as_strided({grad.size(0), rows, keys}, {rows * width, width + 1, 1})
      .copy_(grad.flip({1}));
  grad_bias.narrow(1, first, width).add_(at::sum(windows, {1}));
}

// softmax(q k^T + bias), [H, rows, keys]; a bias of no column: none. Causal: the last `rows` keys
// belong to the rows themselves, and row i sees them up to i.
at::Tensor Probabilities(const at::Tensor& q, const at::Tensor& k, const at::Tensor& bias,
                         bool causal, int64_t position) {
  const int64_t rows = q.size(1);
  const int64_t keys = k.size(1);
  at::Tensor scores = Multiply(q, k.transpose(1, 2));
  if (bias.numel() > 0) scores.add_(BiasOf(bias, position, rows, keys));
  if (causal && rows > 1) {
    const at::Tensor hidden = at::ones({rows, rows}, at::kBool).triu_(1);
    scores.narrow(2, keys - rows, rows)
        .masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  }
  return at::_softmax(scores, -1, /*half_to_float=*/false);
}

// apply() takes no undefined tensor.
at::Tensor BiasOrNone(const at::Tensor& bias, const at::Tensor& like) {
  return bias.defined() ? bias : at::empty({0}, like.options());
}

struct BiasedAttentionFunction : torch::autograd::Function<BiasedAttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q,
                            const at::Tensor& keys_values, const at::Tensor& bias,
                            const Plan& plan) {
    const int64_t num_heads = plan.shape.num_heads;
    const int64_t head_dim = q.size(1) / num_heads;
    const at::Tensor queries = Heads(q, 0, num_heads, head_dim);
    const at::Tensor keys = Heads(keys_values, 0, num_heads, head_dim);
    const at::Tensor values = Heads(keys_values, num_heads, num_heads, head_dim);
    at::Tensor out = at::empty({q.size(0), num_heads, head_dim}, q.options());
    for (const Block& block : Blocks(plan.query_begin, plan.key_begin, plan.shape.causal)) {
      const at::Tensor p = Probabilities(RowsOf(queries, block.begin, block.end),
                                         RowsOf(keys, block.key_begin, block.key_end), bias,
                                         plan.shape.causal, block.position);
      RowsOf(out, block.begin, block.end)
          .copy_(Multiply(p, RowsOf(values, block.key_begin, block.key_end)));
    }
    at::Tensor flat = out.view({q.size(0), -1});
    ctx->save_for_backward({q, keys_values, bias, flat});
    ctx->saved_data["heads"] = num_heads;
    ctx->saved_data["causal"] = plan.shape.causal;
    ctx->saved_data["query_begin"] = plan.query_begin;
    ctx->saved_data["key_begin"] = plan.key_begin;
    return flat;
  }

  // With P the probabilities, O = P V: dV = P^T dO; dS = P * (dO V^T - rowsum(dO * O)); dQ = dS K;
  // dK = dS^T Q; the bias of a distance has the sum of its dS. Source: Dao et al.,
  // "FlashAttention", 2022, appendix B.
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const int64_t num_heads = ctx->saved_data["heads"].toInt();
    const bool causal = ctx->saved_data["causal"].toBool();
    const int64_t head_dim = saved[0].size(1) / num_heads;
    const auto first = [&](const at::Tensor& x) { return Heads(x, 0, num_heads, head_dim); };
    const auto second = [&](const at::Tensor& x) {
      return Heads(x, num_heads, num_heads, head_dim);
    };
    at::Tensor grad_q = at::empty(saved[0].sizes(), saved[0].options());
    at::Tensor grad_keys_values = at::zeros(saved[1].sizes(), saved[1].options());
    const bool needs_bias = saved[2].numel() > 0 && ctx->needs_input_grad(2);
    const at::Tensor grad_bias = needs_bias ? at::zeros_like(saved[2]) : at::Tensor();
    const at::Tensor grad_out = grads[0].contiguous();
    for (const Block& block : Blocks(ctx->saved_data["query_begin"].toIntVector(),
                                     ctx->saved_data["key_begin"].toIntVector(), causal)) {
      const auto rows = [&](const at::Tensor& x) { return RowsOf(x, block.begin, block.end); };
      const auto keys = [&](const at::Tensor& x) {
        return RowsOf(x, block.key_begin, block.key_end);
      };
      const at::Tensor q = rows(first(saved[0]));
      const at::Tensor k = keys(first(saved[1]));
      const at::Tensor p = Probabilities(q, k, saved[2], causal, block.position);
      const at::Tensor grad = rows(first(grad_out));
      keys(second(grad_keys_values)).add_(Multiply(p.transpose(1, 2), grad));
      const at::Tensor row = at::sum(grad * rows(first(saved[3])), {-1}, /*keepdim=*/true);
      const at::Tensor grad_scores =
          Multiply(grad, keys(second(saved[1])).transpose(1, 2)).sub_(row).mul_(p);
      if (needs_bias) AddBiasGradient(grad_scores, block.position, grad_bias);
      rows(first(grad_q)).copy_(Multiply(grad_scores, k));
      keys(first(grad_keys_values)).add_(Multiply(grad_scores.transpose(1, 2), q));
    }
    return {grad_q, grad_keys_values, grad_bias, at::Tensor()};
  }
};

}  // namespace

at::Tensor BiasedAttention(const at::Tensor& q, const at::Tensor& keys_values,
                           const at::Tensor& bias, const ScoreShape& shape,
                           const DocumentPairs& documents) {
  const Plan plan = {shape,
                     {documents.query_begin.begin(), documents.query_begin.end()},
                     {documents.key_begin.begin(), documents.key_begin.end()}};
  return BiasedAttentionFunction::apply(q, keys_values, BiasOrNone(bias, q), plan);
}

at::Tensor BiasedAttendToCache(const at::Tensor& q, const at::Tensor& keys,
                               const at::Tensor& values, const at::Tensor& bias, bool causal,
                               int64_t position) {
  const at::Tensor biases = BiasOrNone(bias, q);
  at::Tensor out = at::empty(q.sizes(), q.options());
  for (int64_t begin = 0; begin < q.size(0); begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, q.size(0));
    const int64_t key_end = causal ? position + end : keys.size(0);
    const at::Tensor p = Probabilities(RowsOf(q, begin, end), RowsOf(keys, 0, key_end), biases,
                                       causal, position + begin);
    RowsOf(out, begin, end).copy_(Multiply(p, RowsOf(values, 0, key_end)));
  }
  return out.view({q.size(0), -1});
}

}  // namespace lathe
