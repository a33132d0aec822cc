#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "nlohmann/json.hpp"
#include "worker/data/shard.h"

namespace lathe::testing {

struct OwnedRow {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trained;
};

// "rows": [{"ids", "trained"}] as in tests/data/goldens.
std::vector<OwnedRow> RowsFromJson(const nlohmann::json& rows);
nlohmann::json ReadJson(const std::filesystem::path& path);

// `length` tokens of ids in [3, vocabulary), the last `num_trained` of them trained. The same for
// the same arguments.
OwnedRow RandomRow(size_t length, size_t num_trained, uint64_t seed, int32_t vocabulary = 384);

// A shard, row i with number i, of tests/data/tiny-llama's template. The file is gone already: the
// mapping stays.
Shard MakeShard(const std::vector<OwnedRow>& rows);

// A shard whose first epoch with `seed` visits the rows in the given order, so that a test decides
// what a step holds.
Shard MakeShardVisitedInOrder(const std::vector<OwnedRow>& rows, uint64_t seed);

// Writes train.shard or another name into an existing folder.
void WriteShard(const std::vector<OwnedRow>& rows, const std::filesystem::path& path);

}  // namespace lathe::testing
