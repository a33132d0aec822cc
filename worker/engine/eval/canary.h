#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/data/shard.h"
#include "worker/engine/eval/parity.h"
#include "worker/engine/model/language_model.h"

// A small fixed batch that a trained model and the model loaded from its export both answer. They
// run the same code on the same numbers, so their answers are equal but for what the export lost.
// P compared positions (of an encoder-decoder its targets'), V vocabulary.

namespace lathe {

// One row, cut to kCanaryTokens.
struct CanaryRow {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trained;  // As long as ids.
  int64_t first_label = 0;  // Position before the first trained token: the prompt ends with it.
};

inline constexpr size_t kCanaryRows = 4;
inline constexpr size_t kCanaryTokens = 128;
inline constexpr int64_t kCanaryPositions = 16;  // Of each row, the last ones.
inline constexpr int64_t kCanaryNewTokens = 8;

// The first rows of `shard`. A row without a trained token among its first kCanaryTokens keeps its
// whole cut text as the prompt.
std::vector<CanaryRow> CanaryRows(const Shard& shard);

struct CanaryAnswers {
  at::Tensor logits;            // [P, V], F32
  std::vector<int32_t> greedy;  // Of all rows, one after the other.
};

// Throws what libtorch throws. REQUIRES: `rows` is not empty.
CanaryAnswers AnswerCanary(LanguageModel& model, const std::vector<CanaryRow>& rows,
                           const std::string& adapter);

// DataLoss: the two are of different sizes.
absl::StatusOr<Parity> CompareAnswers(const CanaryAnswers& trained, const CanaryAnswers& exported);

// What an export may lose: nothing in 32-bit floats, so the bounds only leave room for another
// order of sums.
inline constexpr double kMaxLogitDifference = 1e-4;
inline constexpr double kMaxKl = 1e-6;

// DataLoss, naming the figure and its bound: a difference is above its bound or not a number, or a
// greedy token differs.
absl::Status JudgeParity(const Parity& parity);

}  // namespace lathe
