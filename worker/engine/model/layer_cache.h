#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace lathe {

// Keys and values of the tokens of one sequence in one layer. Buffers grow by doubling.
// K key heads, E head width.
class LayerCache {
 public:
  struct View {
    at::Tensor keys;    // [length, K, E]
    at::Tensor values;  // [length, K, E]
  };

  // Writes tokens [n, K, E] behind the cached ones; the view of all is valid until the next call.
  View Append(const at::Tensor& keys, const at::Tensor& values);
  int64_t length() const { return length_; }

 private:
  void Reserve(at::Tensor& store, const at::Tensor& like, int64_t count) const;

  at::Tensor keys_;    // [capacity, K, E]
  at::Tensor values_;  // [capacity, K, E]
  int64_t length_ = 0;
};

}  // namespace lathe
