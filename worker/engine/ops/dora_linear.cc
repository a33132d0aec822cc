#include "worker/engine/ops/dora_linear.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

namespace lathe {
namespace {

bool HasUpdate(const LoraPair& pair) { return pair.a.defined(); }

// m / n of layer i, [O_i], differentiable in m; computed in the type of m.
at::Tensor Gain(const LinearGroup& group, const LoraUpdate& update, size_t i,
                at::ScalarType dtype) {
  const LoraPair& pair = update.pairs[i];
  const at::Tensor norms = RowNorms(group.Rows(i, pair.a.scalar_type()), pair, update.scale);
  return (pair.magnitude / norms).to(dtype);
}

LoraPair WithoutMagnitude(const LoraPair& pair) { return {.a = pair.a, .b = pair.b}; }

// Nothing is dropped: one product of all layers, then a factor per column.
at::Tensor WithoutDropout(const at::Tensor& x, const LinearGroup& group, const LoraUpdate& update) {
  LoraUpdate plain = {.pairs = {}, .scale = update.scale};
  std::vector<at::Tensor> gains;
  for (size_t i = 0; i < update.pairs.size(); ++i) {
    plain.pairs.push_back(WithoutMagnitude(update.pairs[i]));
    gains.push_back(HasUpdate(update.pairs[i]) ? Gain(group, update, i, x.scalar_type())
                                               : at::ones({group.out_features[i]}, x.options()));
  }
  return LoraLinear(x, group.WithoutBias(), &plain) * at::cat(gains);
}

// W (x - d) + gain (W + s B A) d: every layer has its own mask, so each is computed by itself.
at::Tensor WithDropout(const at::Tensor& x, const LinearGroup& group, const LoraUpdate& update) {
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i < update.pairs.size(); ++i) {
    const LinearGroup layer = group.LayerWithoutBias(i);
    if (!HasUpdate(update.pairs[i])) {
      parts.push_back(LoraLinear(x, layer, nullptr));
      continue;
    }
    const LoraUpdate plain = {.pairs = {WithoutMagnitude(update.pairs[i])}, .scale = update.scale};
    const at::Tensor dropped =
        x * DropoutMask(x, update.dropout, update.dropout_seed, static_cast<int64_t>(i));
    parts.push_back(LoraLinear(x - dropped, layer, nullptr) +
                    LoraLinear(dropped, layer, &plain) * Gain(group, update, i, x.scalar_type()));
  }
  return at::cat(parts, 1);
}

}  // namespace

at::Tensor RowNorms(const at::Tensor& weight, const LoraPair& pair, double scale) {
  const at::NoGradGuard no_grad;
  return at::linalg_vector_norm(at::addmm(weight, pair.b, pair.a, 1, scale), 2, {1});
}

at::Tensor DoraLinear(const at::Tensor& x, const LinearGroup& group, const LoraUpdate& update) {
  return update.dropout == 0 ? WithoutDropout(x, group, update) : WithDropout(x, group, update);
}

}  // namespace lathe
