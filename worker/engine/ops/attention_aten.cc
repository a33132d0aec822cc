#include "worker/engine/ops/attention_aten.h"

#include <ATen/ATen.h>

#include <limits>

namespace lathe {
namespace {

// The first or second values of all pairs of x [T, any, E], a view.
at::Tensor PairSide(const at::Tensor& x, const RopeTable& rope, int64_t side) {
  const int64_t half = rope.cos.size(-1);
  return rope.interleaved ? x.slice(-1, side, 2 * half, 2) : x.narrow(-1, side * half, half);
}

}  // namespace

void RotateIntoAten(const at::Tensor& x, const RopeTable& rope, bool inverse,
                    const at::Tensor& out) {
  const at::Tensor cos = rope.cos.unsqueeze(1);  // [T, 1, R / 2]
  const at::Tensor sin = rope.sin.unsqueeze(1);
  const at::Tensor first = PairSide(x, rope, 0).clone();  // out may be x.
  const at::Tensor second = PairSide(x, rope, 1).clone();
  const double sign = inverse ? -1 : 1;
  at::Tensor out_first = PairSide(out, rope, 0);
  at::Tensor out_second = PairSide(out, rope, 1);
  at::mul_out(out_first, first, cos).addcmul_(second, sin, -sign);
  at::mul_out(out_second, second, cos).addcmul_(first, sin, sign);
  const int64_t turned = 2 * rope.cos.size(-1);
  const int64_t rest = x.size(-1) - turned;
  if (rest > 0) out.narrow(-1, turned, rest).copy_(x.narrow(-1, turned, rest));
}

at::Tensor UnstackedViewAten(const at::Tensor& x, int64_t begin, int64_t end,
                             int64_t num_kv_heads) {
  return x.narrow(0, begin, end - begin)
      .view({end - begin, num_kv_heads, x.size(1) / num_kv_heads, x.size(2)});
}

at::Tensor StackedViewAten(const at::Tensor& stacked, const at::Tensor& out, int64_t begin,
                           int64_t end) {
  const int64_t kv = stacked.size(0);
  return stacked.view({kv, out.size(1) / kv, end - begin, out.size(2)}).permute({2, 0, 1, 3});
}

at::Tensor StackGroupsAten(const at::Tensor& x, int64_t begin, int64_t end, int64_t num_kv_heads) {
  return UnstackedViewAten(x, begin, end, num_kv_heads)
      .permute({1, 2, 0, 3})
      .reshape({num_kv_heads, x.size(1) / num_kv_heads * (end - begin), x.size(2)});
}

at::Tensor CausalSoftmaxAten(const at::Tensor& scores, int64_t rows, double scale) {
  scores.mul_(scale);
  const int64_t keys = scores.size(2);
  if (rows > 1) {
    const at::Tensor hidden = at::ones({rows, rows}, scores.options().dtype(at::kBool)).triu_(1);
    scores.view({scores.size(0), -1, rows, keys})
        .narrow(3, keys - rows, rows)
        .masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  }
  return at::_softmax(scores, -1, /*half_to_float=*/false);
}

}  // namespace lathe
