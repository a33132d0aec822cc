#include "worker/engine/train/plan/order.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "worker/engine/train/plan/random.h"

namespace lathe {

std::vector<uint32_t> EpochOrder(uint64_t seed, int64_t epoch, size_t num_rows) {
  std::vector<uint32_t> order(num_rows);
  std::iota(order.begin(), order.end(), 0U);
  CounterRandom random(MixKey({seed, static_cast<uint64_t>(epoch)}));
  for (size_t i = num_rows; i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
  return order;
}

int64_t RowOrder::steps_per_epoch() const {
  const auto num_rows = static_cast<int64_t>(options_.num_rows);
  return (num_rows + options_.batch_size - 1) / options_.batch_size;
}

std::vector<uint32_t> RowOrder::RowsOfStep(int64_t step) {
  const int64_t epoch = step / steps_per_epoch();
  if (epoch != cached_epoch_) {
    cached_order_ = EpochOrder(options_.seed, epoch, options_.num_rows);
    cached_epoch_ = epoch;
  }
  const int64_t begin = step % steps_per_epoch() * options_.batch_size;
  const int64_t end =
      std::min(begin + options_.batch_size, static_cast<int64_t>(options_.num_rows));
  return {cached_order_.begin() + begin, cached_order_.begin() + end};
}

double RowOrder::EpochAfter(int64_t num_done) const {
  return static_cast<double>(num_done) / static_cast<double>(steps_per_epoch());
}

}  // namespace lathe
