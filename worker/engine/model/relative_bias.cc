#include "worker/engine/model/relative_bias.h"

#include <ATen/ATen.h>

#include <cmath>

#include "worker/engine/ops/embedding.h"

namespace lathe {

at::Tensor RelativeBuckets(int64_t last, bool bidirectional, const EncoderDecoder& options) {
  at::Tensor distance = at::arange(-last, last + 1, at::kLong);
  at::Tensor bucket = at::zeros_like(distance);
  int64_t num_buckets = options.num_buckets;
  if (bidirectional) {
    num_buckets /= 2;
    bucket += distance.gt(0).to(at::kLong) * num_buckets;
    distance = distance.abs();
  } else {
    distance = distance.neg().clamp_min(0);
  }
  const int64_t num_exact = num_buckets / 2;
  const auto exact = static_cast<double>(num_exact);
  // The others grow with the logarithm.
  const at::Tensor steps = at::log(distance.to(at::kFloat) / exact) /
                           std::log(static_cast<double>(options.max_distance) / exact) *
                           static_cast<double>(num_buckets - num_exact);
  // A distance of 0 has no logarithm, and needs none.
  const at::Tensor large =
      (num_exact + steps.clamp_min(0).to(at::kLong)).clamp_max(num_buckets - 1);
  return bucket + at::where(distance < num_exact, distance, large);
}

at::Tensor RelativeBias(const at::Tensor& table, int64_t max_length, bool bidirectional,
                        const EncoderDecoder& options) {
  const at::Tensor buckets = RelativeBuckets(max_length - 1, bidirectional, options);
  return Embedding(table, buckets).t().contiguous();
}

}  // namespace lathe
