#pragma once

#include <cstdint>
#include <vector>

namespace lathe {

// One micro-batch: documents one after the other, no padding. T tokens, N labels. An
// encoder-decoder reads a document as source and target (source_target.h).
struct PackedBatch {
  std::vector<int32_t> ids;        // [T]
  std::vector<int32_t> positions;  // [T], from 0 in each document.
  std::vector<int32_t>
      document_begin;  // [documents + 1], token offsets, starts with 0 and ends with T.
  std::vector<int32_t> label_positions;  // [N], ascending; the token whose successor in the same
                                         // document is trained.
  std::vector<int32_t> labels;           // [N], that successor.
};

}  // namespace lathe
