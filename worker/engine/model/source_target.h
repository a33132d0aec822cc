#pragma once

#include <cstdint>
#include <vector>

#include "worker/engine/model/packed_batch.h"

namespace lathe {

// A packed batch as an encoder-decoder reads it: the tokens of a document before its first label
// are the source, the others the target, which the decoder gets shifted right (transformers,
// T5ForConditionalGeneration._shift_right). S tokens of sources, T of targets, N labels.
struct SourceTarget {
  std::vector<int32_t> source_ids;       // [S]
  std::vector<int32_t> decoder_ids;      // [T], of each document `start_id` and all but its last.
  std::vector<int32_t> source_begin;     // [documents + 1]
  std::vector<int32_t> target_begin;     // [documents + 1]
  std::vector<int32_t> label_positions;  // [N], ascending; the decoder's token that predicts one.
};

// A document without a label is a source alone; its decoder gets `start_id` and nothing else.
// REQUIRES: CheckBatch has seen the batch.
SourceTarget SplitBatch(const PackedBatch& batch, int32_t start_id);

}  // namespace lathe
