#include "worker/engine/model/check_batch.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "absl/strings/str_join.h"
#include "worker/engine/ops/staging.h"

namespace lathe {
namespace {

void CheckPositions(const std::vector<int32_t>& positions, int64_t limit) {
  for (const int32_t position : positions) {
    TORCH_CHECK_VALUE(position >= 0, "token position is ", position, "; must be at least 0");
    TORCH_CHECK_VALUE(position < limit, "a row has more than ", limit,
                      " tokens, which is all that this model allows; set max_length to at most ",
                      limit);
  }
}

}  // namespace

void CheckIds(const std::vector<int32_t>& ids, int64_t limit, const char* what) {
  for (const int32_t id : ids) {
    TORCH_CHECK_VALUE(id >= 0 && id < limit, what, " is ", id, "; must be in [0, ", limit, ")");
  }
}

void CheckBatch(const PackedBatch& batch, const ModelConfig& config) {
  const auto num_tokens = static_cast<int64_t>(batch.ids.size());
  TORCH_CHECK_VALUE(num_tokens > 0, "batch has no tokens; must have at least 1");
  CheckIds(batch.ids, config.vocab_size, "token id");
  CheckIds(batch.labels, config.vocab_size, "label");
  CheckPositions(batch.positions, config.max_positions);
  CheckIds(batch.label_positions, num_tokens, "label position");
  TORCH_CHECK_VALUE(batch.positions.size() == batch.ids.size(), "batch has ",
                    batch.positions.size(), " positions; must have one per token: ", num_tokens);
  TORCH_CHECK_VALUE(batch.label_positions.size() == batch.labels.size(), "batch has ",
                    batch.label_positions.size(),
                    " label positions; must have one per label: ", batch.labels.size());
  const std::vector<int32_t>& begin = batch.document_begin;
  TORCH_CHECK_VALUE(begin.size() >= 2 && begin.front() == 0 && begin.back() == num_tokens &&
                        std::is_sorted(begin.begin(), begin.end()),
                    "document_begin is [", absl::StrJoin(begin, ", "),
                    "]; must rise from 0 to the number of tokens: ", num_tokens);
}

at::Tensor IndexTensor(const std::vector<int32_t>& values, at::Device device) {
  return Stage(values, device).to(at::kLong);
}

}  // namespace lathe
