#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "worker/formats/model_config.h"

// T5's relative positions: a learned bias per head and bucket of distances.
// H heads, M greatest length of a document.

namespace lathe {

// The bucket of every distance in [-last, last], [2 last + 1] whole numbers: key position minus
// query position. Of a decoder (`bidirectional` false) every key ahead is in bucket 0. In 32-bit
// floats operation by operation as transformers, T5Attention._relative_position_bucket.
at::Tensor RelativeBuckets(int64_t last, bool bidirectional, const EncoderDecoder& options);

// table [buckets, H] -> the biases by distance that BiasedAttention takes, [H, 2 M - 1].
at::Tensor RelativeBias(const at::Tensor& table, int64_t max_length, bool bidirectional,
                        const EncoderDecoder& options);

}  // namespace lathe
