#include "worker/engine/model/source_target.h"

#include <algorithm>

namespace lathe {

SourceTarget SplitBatch(const PackedBatch& batch, int32_t start_id) {
  SourceTarget split;
  split.source_begin = {0};
  split.target_begin = {0};
  auto label = batch.label_positions.begin();
  for (size_t d = 0; d + 1 < batch.document_begin.size(); ++d) {
    const int32_t begin = batch.document_begin[d];
    const int32_t end = batch.document_begin[d + 1];
    const auto last = std::lower_bound(label, batch.label_positions.end(), end);
    const int32_t target = label == last ? end : *label + 1;
    const int32_t decoder_begin = split.target_begin.back();
    split.source_ids.insert(split.source_ids.end(), batch.ids.begin() + begin,
                            batch.ids.begin() + target);
    split.decoder_ids.push_back(start_id);
    if (target < end) {
      split.decoder_ids.insert(split.decoder_ids.end(), batch.ids.begin() + target,
                               batch.ids.begin() + end - 1);
    }
    // The token before a label predicts it; in the decoder that is one place to the left.
    for (; label != last; ++label) {
      split.label_positions.push_back(decoder_begin + *label + 1 - target);
    }
    split.source_begin.push_back(static_cast<int32_t>(split.source_ids.size()));
    split.target_begin.push_back(static_cast<int32_t>(split.decoder_ids.size()));
  }
  return split;
}

}  // namespace lathe
