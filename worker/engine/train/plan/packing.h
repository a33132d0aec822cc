#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/data/shard.h"
#include "worker/engine/model/packed_batch.h"

// How the rows of a step become micro-batches. Pure, and without the number of ranks: one rank and
// eight ranks add up the same sums. semantics.md sections 0 and 2.

namespace lathe {

// Indices into `lengths` per micro-batch, ascending in each. There are M of them: the smallest
// power of two that is at least 2 and at least total / budget, but no more than there are rows; so
// two ranks always have work if there are two rows. The longest row goes to the lightest
// micro-batch first, which balances the ranks; a micro-batch may exceed the budget by less than one
// row. REQUIRES: lengths are positive, budget is positive.
std::vector<std::vector<uint32_t>> PackStep(std::span<const int64_t> lengths, int64_t budget);

// The rows one after the other; attention and positions are per document.
PackedBatch BuildBatch(std::span<const TokenRow> rows);

}  // namespace lathe
