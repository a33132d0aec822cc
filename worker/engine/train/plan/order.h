#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// Which rows a step trains on: a pure function of (seed, number of rows, batch size, step), the
// same on every rank. semantics.md section 0.

namespace lathe {

// The permutation of [0, num_rows) in which epoch `epoch` (from 0) visits the rows: Fisher-Yates
// over CounterRandom.
std::vector<uint32_t> EpochOrder(uint64_t seed, int64_t epoch, size_t num_rows);

struct OrderOptions {
  uint64_t seed = 1;
  int64_t epochs = 3;
  int64_t batch_size = 8;  // Rows of a step; the last step of an epoch has what is left.
  size_t num_rows = 0;     // At most 2^32.
};

// Thread-compatible: keeps the order of one epoch.
class RowOrder {
 public:
  // REQUIRES: epochs, batch_size and num_rows are positive.
  explicit RowOrder(const OrderOptions& options) : options_(options) {}

  int64_t steps_per_epoch() const;
  int64_t num_steps() const { return options_.epochs * steps_per_epoch(); }

  // Rows of step `step`, from 0, in visiting order. REQUIRES: 0 <= step < num_steps().
  std::vector<uint32_t> RowsOfStep(int64_t step);

  // Epochs that are done after `num_done` steps, as a fraction: 1.5 is the middle of the second.
  double EpochAfter(int64_t num_done) const;

 private:
  const OrderOptions options_;
  int64_t cached_epoch_ = -1;
  std::vector<uint32_t> cached_order_;
};

}  // namespace lathe
