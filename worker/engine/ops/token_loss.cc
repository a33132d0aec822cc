#include "worker/engine/ops/token_loss.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "worker/engine/ops/device_kernels.h"
#include "worker/engine/ops/for_rows.h"
#include "worker/engine/ops/matrix_product.h"
#include "worker/engine/ops/row_kernels.h"
#include "worker/engine/ops/widened_product.h"

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Softmax and sums need 32 bits, also where products have 16.
at::ScalarType WideType(const at::Tensor& hidden) {
  return at::isReducedFloatingType(hidden.scalar_type()) ? at::kFloat : hidden.scalar_type();
}

void ChunkLogits(const at::Tensor& hidden, const at::Tensor& weight, at::Tensor& logits) {
  if (hidden.scalar_type() == logits.scalar_type()) {
    ProductInto(logits, hidden, weight);
  } else {
    logits.copy_(at::mm(hidden, weight.t()));
  }
}

// A GPU's kernel takes logits as the product leaves them.
at::Tensor LogitsBuffer(const at::Tensor& hidden, int64_t rows, int64_t vocabulary) {
  const at::Tensor narrow = at::empty({rows, vocabulary}, hidden.options().requires_grad(false));
  if (DeviceKernelsFor(narrow) != nullptr || WideType(hidden) == hidden.scalar_type())
    return narrow;
  return at::empty({rows, vocabulary}, narrow.options().dtype(WideType(hidden)));
}

int64_t ChunkFor(const at::Tensor& hidden, int64_t chunk) {
  if (chunk > 0) return chunk;
  return hidden.is_cpu() ? kLossChunk : kDeviceLossChunk;
}

// Calls body(begin, logits [rows, V], labels [rows]) per chunk. One buffer serves all.
template <typename Body>
void ForEachChunk(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                  int64_t wanted_chunk, Body body) {
  const int64_t count = hidden.size(0);
  const int64_t chunk = ChunkFor(hidden, wanted_chunk);
  const at::Tensor buffer = LogitsBuffer(hidden, std::min(chunk, count), weight.size(0));
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t rows = std::min(chunk, count - begin);
    at::Tensor logits = buffer.narrow(0, 0, rows);
    ChunkLogits(hidden.narrow(0, begin, rows), weight, logits);
    body(begin, logits, labels.narrow(0, begin, rows));
  }
}

// CrossEntropy() by libtorch's operations: where row_kernels.h cannot compute.
at::Tensor CrossEntropyAten(const at::Tensor& logits, const at::Tensor& labels) {
  const at::Tensor column = labels.unsqueeze(1);
  at::Tensor log_probs = logits;
  at::_log_softmax_out(log_probs, logits, 1, /*half_to_float=*/false);
  const at::Tensor loss = log_probs.gather(1, column).sum(at::kDouble).neg();
  log_probs.exp_().scatter_add_(1, column,
                                at::full({}, -1, log_probs.options()).expand(column.sizes()));
  return loss;
}

// The sum of the losses, a 64-bit scalar where the logits are: nobody waits for a GPU here. Logits
// become d loss / d logits = softmax - one_hot(label).
at::Tensor CrossEntropy(const at::Tensor& logits, const at::Tensor& labels) {
  if (const DeviceKernels* kernels = DeviceKernelsFor(logits)) {
    const at::Tensor losses = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
    kernels->CrossEntropy(logits, labels, losses);
    return losses.sum(at::kDouble);
  }
  if (!HasRowKernels(logits)) return CrossEntropyAten(logits, labels);
  const int64_t vocabulary = logits.size(1);
  const at::Tensor losses = at::empty({logits.size(0)}, at::kDouble);
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "CrossEntropy", [&] {
    auto* data = logits.data_ptr<scalar_t>();
    const auto* wanted = labels.const_data_ptr<int64_t>();
    auto* out = losses.data_ptr<double>();
    ForRows(logits.size(0), vocabulary, [&](int64_t row) {
      out[row] = CrossEntropyRow(data + row * vocabulary, wanted[row], vocabulary);
    });
  });
  return losses.sum();
}

struct TokenLossFunction : torch::autograd::Function<TokenLossFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden,
                            const at::Tensor& weight, const at::Tensor& labels, int64_t chunk) {
    at::Tensor grad_hidden = at::empty_like(hidden);
    at::Tensor grad_weight = weight.requires_grad() ? at::zeros_like(weight) : at::Tensor();
    at::Tensor loss = at::zeros({}, hidden.options().dtype(at::kDouble).requires_grad(false));
    ForEachChunk(hidden, weight, labels, chunk,
                 [&](int64_t begin, const at::Tensor& logits, const at::Tensor& chunk_labels) {
                   loss.add_(CrossEntropy(logits, chunk_labels));
                   BackProductInto(grad_hidden.narrow(0, begin, logits.size(0)),
                                   logits.to(hidden.scalar_type()), weight);
                   if (!grad_weight.defined()) return;
                   AddProduct(grad_weight, logits.t(), hidden.narrow(0, begin, logits.size(0)));
                 });
    ctx->save_for_backward({grad_hidden, grad_weight});
    return loss;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    // Of a loss sum that nobody scales: a pass through memory as large as the head less. Elsewhere
    // the question would wait for the device.
    if (grads[0].is_cpu() && grads[0].item<double>() == 1) {
      return {saved[0], saved[1], at::Tensor(), at::Tensor()};
    }
    const at::Tensor scale = grads[0].to(saved[0].scalar_type());
    // In place: it is as large as the head. A second backward pass is refused by autograd.
    at::Tensor grad_weight = saved[1];
    if (grad_weight.defined()) grad_weight.mul_(scale);
    return {saved[0] * scale, grad_weight, at::Tensor(), at::Tensor()};
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
               [&](int64_t, const at::Tensor& logits, const at::Tensor& chunk_labels) {
                 stats.correct += logits.argmax(1).eq(chunk_labels).sum().item<int64_t>();
                 stats.loss += CrossEntropy(logits, chunk_labels).item<double>();
               });
  return stats;
}

}  // namespace lathe
