#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "worker/data/row.h"

// Which rows train and which are held out. Pure.

namespace lathe {

// 128 bits of a sha256.
using ContentKey = std::array<uint64_t, 2>;

// Over roles, contents, calls and tools; task, split and weights do not count: rows with the same
// key are duplicates.
ContentKey ContentKeyOf(const Conversation& conversation, absl::string_view tools = "");

struct SplitRow {
  ContentKey key = {};
  RowSplit split = RowSplit::kUnset;
};

// kInTraining: held out by its `split`, but a training row has the same key. It is not used.
enum class Side { kNone, kTraining, kValidation, kInTraining };

// One side per row; kNone for rows without a value.
//   If any row has a `split`, the rows without one are training rows.
//   Otherwise the different keys are ordered by sha256(seed, key), and the first
//   round(fraction * keys) of them are held out with all their duplicates: at least one if fraction
//   > 0 and there are two keys, and never all. A row that is added moves rows only at that edge.
std::vector<Side> SplitRows(std::span<const std::optional<SplitRow>> rows, double fraction,
                            int64_t seed);

}  // namespace lathe
