#include "worker/engine/ops/token_loss.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "worker/engine/ops/widened_product.h"

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Calls body(begin, log softmax [rows, V], labels [rows, 1]) per chunk. One buffer serves all.
template <typename Body>
void ForEachChunk(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                  int64_t chunk, Body body) {
  const int64_t count = hidden.size(0);
  at::Tensor buffer = at::empty({std::min(chunk, count), weight.size(0)}, hidden.options());
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t rows = std::min(chunk, count - begin);
    at::Tensor logits = buffer.narrow(0, 0, rows);
    ProductInto(logits, hidden.narrow(0, begin, rows), weight);
    at::_log_softmax_out(logits, logits, 1, /*half_to_float=*/false);
    body(begin, logits, labels.narrow(0, begin, rows).unsqueeze(1));
  }
}

double SumOfLabels(const at::Tensor& log_probs, const at::Tensor& labels) {
  return -log_probs.gather(1, labels).sum(at::kDouble).item<double>();
}

struct TokenLossFunction : torch::autograd::Function<TokenLossFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden,
                            const at::Tensor& weight, const at::Tensor& labels, int64_t chunk) {
    at::Tensor grad_hidden = at::empty_like(hidden);
    double loss = 0;
    ForEachChunk(
        hidden, weight, labels, chunk,
        [&](int64_t begin, at::Tensor& log_probs, const at::Tensor& chunk_labels) {
          loss += SumOfLabels(log_probs, chunk_labels);
          // d loss / d logits = softmax - one_hot(label).
          log_probs.exp_().scatter_add_(
              1, chunk_labels, at::full({}, -1, log_probs.options()).expand(chunk_labels.sizes()));
          BackProductInto(grad_hidden.narrow(0, begin, log_probs.size(0)), log_probs, weight);
        });
    ctx->save_for_backward({grad_hidden});
    return at::full({}, loss, hidden.options().dtype(at::kDouble));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor grad_hidden = ctx->get_saved_variables()[0];
    return {grad_hidden * grads[0].to(grad_hidden.scalar_type()), at::Tensor(), at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor TokenLossSum(const at::Tensor& hidden, const at::Tensor& weight,
                        const at::Tensor& labels, int64_t chunk) {
  return TokenLossFunction::apply(hidden, weight, labels, chunk);
}

TokenLossStats MeasureTokenLoss(const at::Tensor& hidden, const at::Tensor& weight,
                                const at::Tensor& labels, int64_t chunk) {
  const at::NoGradGuard no_grad;
  TokenLossStats stats;
  ForEachChunk(hidden, weight, labels, chunk,
               [&](int64_t, const at::Tensor& log_probs, const at::Tensor& chunk_labels) {
                 stats.loss += SumOfLabels(log_probs, chunk_labels);
                 stats.correct +=
                     log_probs.argmax(1, /*keepdim=*/true).eq(chunk_labels).sum().item<int64_t>();
               });
  return stats;
}

}  // namespace lathe
