#include "worker/engine/train/plan/packing.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>

namespace lathe {
namespace {

size_t NumMicroBatches(std::span<const int64_t> lengths, int64_t budget) {
  const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  const int64_t wanted = std::max<int64_t>(2, (total + budget - 1) / budget);
  int64_t count = 2;
  while (count < wanted) count *= 2;
  return std::min(static_cast<size_t>(count), lengths.size());
}

std::vector<uint32_t> LongestFirst(std::span<const int64_t> lengths) {
  std::vector<uint32_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return lengths[a] > lengths[b]; });
  return order;
}

void AppendRow(const TokenRow& row, PackedBatch& batch) {
  const auto begin = static_cast<int32_t>(batch.ids.size());
  for (size_t i = 0; i < row.ids.size(); ++i) {
    batch.ids.push_back(row.ids[i]);
    batch.positions.push_back(static_cast<int32_t>(i));
    // The first token of a document has no predecessor in it: nothing predicts it.
    if (i == 0 || row.trained[i] == 0) continue;
    batch.label_positions.push_back(begin + static_cast<int32_t>(i) - 1);
    batch.labels.push_back(row.ids[i]);
  }
  batch.document_begin.push_back(static_cast<int32_t>(batch.ids.size()));
}

}  // namespace

std::vector<std::vector<uint32_t>> PackStep(std::span<const int64_t> lengths, int64_t budget) {
  std::vector<std::vector<uint32_t>> bins(NumMicroBatches(lengths, budget));
  // The lightest bin is on top; of equal ones the first.
  using Load = std::pair<int64_t, size_t>;
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (size_t bin = 0; bin < bins.size(); ++bin) loads.emplace(0, bin);
  for (const uint32_t row : LongestFirst(lengths)) {
    const auto [load, bin] = loads.top();
    loads.pop();
    bins[bin].push_back(row);
    loads.emplace(load + lengths[row], bin);
  }
  for (std::vector<uint32_t>& bin : bins) std::sort(bin.begin(), bin.end());
  return bins;
}

PackedBatch BuildBatch(std::span<const TokenRow> rows) {
  PackedBatch batch;
  batch.document_begin.push_back(0);
  for (const TokenRow& row : rows) AppendRow(row, batch);
  return batch;
}

}  // namespace lathe
