#include "worker/engine/train/plan/step_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "worker/engine/train/plan/packing.h"

namespace lathe {
namespace {

int64_t CountTrained(const TokenRow& row) {
  // A label needs a predecessor: the first token never counts.
  return std::count_if(row.trained.begin() + 1, row.trained.end(),
                       [](uint8_t trained) { return trained != 0; });
}

}  // namespace

StepPlan PlanStep(const Shard& shard, std::span<const uint32_t> rows, int64_t micro_batch_tokens) {
  StepPlan plan;
  std::vector<int64_t> lengths;
  lengths.reserve(rows.size());
  for (const uint32_t index : rows) {
    const TokenRow row = shard.row(index);
    const int64_t trained = CountTrained(row);
    lengths.push_back(static_cast<int64_t>(row.ids.size()));
    plan.trained_tokens += trained;
    plan.prompt_tokens += lengths.back() - trained;
  }
  plan.micro_batches = PackStep(lengths, micro_batch_tokens);
  for (std::vector<uint32_t>& micro_batch : plan.micro_batches) {
    for (uint32_t& index : micro_batch) index = rows[index];
  }
  return plan;
}

PackedBatch BuildMicroBatch(const Shard& shard, std::span<const uint32_t> rows) {
  std::vector<TokenRow> views;
  views.reserve(rows.size());
  for (const uint32_t index : rows) views.push_back(shard.row(index));
  return BuildBatch(views);
}

std::string DescribeRows(const Shard& shard, std::span<const uint32_t> rows) {
  constexpr size_t kMaxNamed = 16;
  std::string text = rows.size() == 1 ? "row" : "rows";
  for (size_t i = 0; i < std::min(rows.size(), kMaxNamed); ++i) {
    absl::StrAppend(&text, i == 0 ? " " : ", ", shard.row(rows[i]).row);
  }
  if (rows.size() > kMaxNamed) absl::StrAppend(&text, " and ", rows.size() - kMaxNamed, " more");
  return text;
}

std::string DescribeRows(const Shard& shard, const StepPlan& plan) {
  std::vector<uint32_t> rows;
  for (const auto& micro_batch : plan.micro_batches) {
    rows.insert(rows.end(), micro_batch.begin(), micro_batch.end());
  }
  return DescribeRows(shard, rows);
}

}  // namespace lathe
