#include "worker/engine/ops/embedding.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace lathe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct EmbeddingFunction : torch::autograd::Function<EmbeddingFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& weight, const at::Tensor& ids,
                            int64_t padding_row) {
    ctx->save_for_backward({ids});
    ctx->saved_data["padding_row"] = padding_row;
    ctx->saved_data["rows"] = weight.size(0);
    return at::index_select(weight, 0, ids);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor ids = ctx->get_saved_variables()[0];
    const int64_t rows = ctx->saved_data["rows"].toInt();
    // Every thread owns a range of the vocabulary: the order of the sums is that of the tokens.
    return {
        at::embedding_dense_backward(grads[0], ids, rows, ctx->saved_data["padding_row"].toInt(),
                                     /*scale_grad_by_freq=*/false),
        at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor Embedding(const at::Tensor& weight, const at::Tensor& ids, int64_t padding_row) {
  return EmbeddingFunction::apply(weight, ids, padding_row);
}

}  // namespace lathe
