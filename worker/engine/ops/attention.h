#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

// Causal grouped-query attention with rotary positions. Documents of a packed batch never see each
// other: they are computed one by one, so no mask of the whole batch exists.
// T tokens, H query heads, K key heads (H a multiple of K), E head width.

namespace lathe {

struct HeadShape {
  int64_t num_heads = 0;     // H
  int64_t num_kv_heads = 0;  // K
  int64_t head_dim = 0;      // E
};

// cos and sin of position * frequency, each [T, R / 2], R <= E: the first R values of a head turn.
struct RopeTable {
  at::Tensor cos;
  at::Tensor sin;
  bool interleaved = false;  // Pairs are neighbours, else i and i + R / 2.
};

// In the arithmetic of `frequencies` [R / 2] throughout, as transformers' LlamaRotaryEmbedding does
// in fp32. `positions` is a whole-number tensor [T].
RopeTable MakeRopeTable(const at::Tensor& positions, const at::Tensor& frequencies,
                        bool interleaved);

// qkv [T, (H + 2 K) E]: queries, keys, values of each token -> [T, H E]. `document_begin` as in
// PackedBatch. Nothing of size T x T outlives the call: backward computes the scores again. On a
// GPU in 16 bits: flash_attention.h, which takes `cumulative`, document_begin staged there, if the
// caller has it.
at::Tensor PackedAttention(const at::Tensor& qkv, const RopeTable& rope, const HeadShape& shape,
                           const std::vector<int32_t>& document_begin,
                           const at::Tensor& cumulative = {});

// The parts of it that incremental decoding needs. No gradient.
// Rotates [T, any, E] (transformers' rotate_half, of Llama or, interleaved, of Glm).
at::Tensor RotateHeads(const at::Tensor& x, const RopeTable& rope);
// The same into `out`, a view of rows or x itself; `inverse`: by the opposite angles.
void RotateInto(const at::Tensor& x, const RopeTable& rope, bool inverse, const at::Tensor& out);
// Attention of m new tokens to the n cached ones, the last m of which are themselves.
// q [m, H, E], keys and values [n, K, E] -> [m, H E].
at::Tensor AttendToCache(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values);

}  // namespace lathe
