#include "worker/engine/model/layer_cache.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

namespace lathe {
namespace {

constexpr int64_t kMinCapacity = 256;

}  // namespace

LayerCache::View LayerCache::Append(const at::Tensor& keys, const at::Tensor& values) {
  const int64_t end = length_ + keys.size(0);
  Reserve(keys_, keys, end);
  Reserve(values_, values, end);
  keys_.narrow(0, length_, keys.size(0)).copy_(keys);
  values_.narrow(0, length_, values.size(0)).copy_(values);
  length_ = end;
  return {keys_.narrow(0, 0, end), values_.narrow(0, 0, end)};
}

void LayerCache::Reserve(at::Tensor& store, const at::Tensor& like, int64_t count) const {
  if (store.defined() && store.size(0) >= count) return;
  const int64_t old = store.defined() ? store.size(0) : 0;
  std::vector<int64_t> shape = like.sizes().vec();
  shape[0] = std::max({kMinCapacity, 2 * old, count});
  at::Tensor grown = at::empty(shape, like.options());
  if (length_ > 0) grown.narrow(0, 0, length_).copy_(store.narrow(0, 0, length_));
  store = grown;
}

}  // namespace lathe
