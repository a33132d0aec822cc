#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

// Attention without rotation and without a scale of the scores, with a bias per head and distance:
//   softmax(q k^T + bias) v
// Source: transformers, models/t5, T5Attention. Documents of a packed batch never see each other:
// they are computed one by one, so no mask of the whole batch exists.
// Q query tokens, K key tokens, H heads, E head width, M greatest length of a document.

namespace lathe {

// Documents of the queries and of the keys; the queries of document d see its keys alone. Both are
// [documents + 1] token offsets, start with 0 and end with Q and K.
struct DocumentPairs {
  std::vector<int32_t> query_begin;
  std::vector<int32_t> key_begin;
};

struct ScoreShape {
  int64_t num_heads = 0;
  // Query i of a document sees its keys up to i. REQUIRES: as many keys as queries.
  bool causal = false;
};

// q [Q, H E], keys_values [K, 2 H E]: all keys of a token, then its values -> [Q, H E]. bias
// [H, 2 M - 1]: column M - 1 + d is of a key that stands d tokens behind its query. Undefined:
// none. Nothing of size Q x K outlives the call: backward computes the scores again.
at::Tensor BiasedAttention(const at::Tensor& q, const at::Tensor& keys_values,
                           const at::Tensor& bias, const ScoreShape& shape,
                           const DocumentPairs& documents);

// The same for m new queries of one document, the first of which stands at `position`. No gradient.
// q [m, H, E], keys and values [n, H, E] -> [m, H E]. REQUIRES: causal: n is position + m.
at::Tensor BiasedAttendToCache(const at::Tensor& q, const at::Tensor& keys,
                               const at::Tensor& values, const at::Tensor& bias, bool causal,
                               int64_t position);

}  // namespace lathe
