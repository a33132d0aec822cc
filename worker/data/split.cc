#include "worker/data/split.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "common/base/sha256.h"

namespace lathe {
namespace {

using OptionalRow = std::optional<SplitRow>;

absl::string_view BytesOf(const void* data, size_t size) {
  return {static_cast<const char*>(data), size};
}

ContentKey KeyFromHex(absl::string_view hex) {
  const std::string bytes = absl::HexStringToBytes(hex.substr(0, 32));
  ContentKey key;
  std::memcpy(key.data(), bytes.data(), sizeof(key));
  return key;
}

// Rows without them keep the key that they always had.
void UpdateWithSize(Sha256& hash, absl::string_view kind, absl::string_view text) {
  const uint64_t size = text.size();
  hash.Update(kind);
  hash.Update(BytesOf(&size, sizeof(size)));
  hash.Update(text);
}

ContentKey OrderOf(int64_t seed, const ContentKey& key) {
  Sha256 hash;
  hash.Update(BytesOf(&seed, sizeof(seed)));
  hash.Update(BytesOf(key.data(), sizeof(key)));
  return KeyFromHex(hash.FinishHex());
}

std::vector<Side> SplitByField(std::span<const OptionalRow> rows) {
  std::vector<Side> sides(rows.size(), Side::kNone);
  absl::flat_hash_set<ContentKey> training;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i] || rows[i]->split == RowSplit::kValidation) continue;
    sides[i] = Side::kTraining;
    training.insert(rows[i]->key);
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i] || sides[i] == Side::kTraining) continue;
    sides[i] = training.contains(rows[i]->key) ? Side::kInTraining : Side::kValidation;
  }
  return sides;
}

size_t HeldOutCount(size_t keys, double fraction) {
  if (!(fraction > 0) || keys < 2) return 0;
  const auto wanted = static_cast<size_t>(std::llround(fraction * static_cast<double>(keys)));
  return std::clamp<size_t>(wanted, 1, keys - 1);
}

std::vector<Side> SplitByFraction(std::span<const OptionalRow> rows, double fraction,
                                  int64_t seed) {
  absl::flat_hash_set<ContentKey> seen;
  std::vector<std::pair<ContentKey, ContentKey>> keys;  // (order, key)
  for (const OptionalRow& row : rows) {
    if (row && seen.insert(row->key).second) keys.emplace_back(OrderOf(seed, row->key), row->key);
  }
  const size_t held_out = HeldOutCount(keys.size(), fraction);
  const auto edge = keys.begin() + static_cast<std::ptrdiff_t>(held_out);
  std::nth_element(keys.begin(), edge, keys.end());
  absl::flat_hash_set<ContentKey> validation;
  for (auto it = keys.begin(); it != edge; ++it) validation.insert(it->second);
  std::vector<Side> sides(rows.size(), Side::kNone);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i]) sides[i] = validation.contains(rows[i]->key) ? Side::kValidation : Side::kTraining;
  }
  return sides;
}

}  // namespace

ContentKey ContentKeyOf(const Conversation& conversation, absl::string_view tools) {
  Sha256 hash;
  for (const Message& message : conversation) {
    const uint64_t head[] = {static_cast<uint64_t>(message.role), message.content.size()};
    hash.Update(BytesOf(head, sizeof(head)));
    hash.Update(message.content);
    if (!message.fields.empty()) UpdateWithSize(hash, "fields", message.fields);
  }
  if (!tools.empty()) UpdateWithSize(hash, "tools", tools);
  return KeyFromHex(hash.FinishHex());
}

std::vector<Side> SplitRows(std::span<const OptionalRow> rows, double fraction, int64_t seed) {
  const bool by_field = std::any_of(rows.begin(), rows.end(), [](const OptionalRow& row) {
    return row && row->split != RowSplit::kUnset;
  });
  return by_field ? SplitByField(rows) : SplitByFraction(rows, fraction, seed);
}

}  // namespace lathe
