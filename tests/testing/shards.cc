#include "tests/testing/shards.h"

#include <gtest/gtest.h>

#include <fstream>

#include "common/base/file.h"
#include "common/base/sha256.h"
#include "worker/engine/train/plan/order.h"
#include "worker/engine/train/plan/random.h"

namespace lathe::testing {

std::vector<OwnedRow> RowsFromJson(const nlohmann::json& rows) {
  std::vector<OwnedRow> owned;
  for (const auto& row : rows) {
    owned.push_back(
        {row.at("ids").get<std::vector<int32_t>>(), row.at("trained").get<std::vector<uint8_t>>()});
  }
  return owned;
}

nlohmann::json ReadJson(const std::filesystem::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return nlohmann::json::parse(file);
}

OwnedRow RandomRow(size_t length, size_t num_trained, uint64_t seed, int32_t vocabulary) {
  constexpr int32_t kFirstPlainId = 3;
  CounterRandom random(seed);
  OwnedRow row{.ids = std::vector<int32_t>(length), .trained = std::vector<uint8_t>(length, 0)};
  for (int32_t& id : row.ids) {
    id = kFirstPlainId +
         static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocabulary - kFirstPlainId)));
  }
  for (size_t i = length - num_trained; i < length; ++i) row.trained[i] = 1;
  return row;
}

void WriteShard(const std::vector<OwnedRow>& rows, const std::filesystem::path& path) {
  const auto template_sha256 = Sha256OfFile("tests/data/tiny-llama/chat_template.jinja");
  EXPECT_TRUE(template_sha256.ok()) << template_sha256.status();
  ShardWriter writer(*template_sha256);
  for (size_t i = 0; i < rows.size(); ++i) {
    const absl::Status added = writer.Add(
        {.ids = rows[i].ids, .trained = rows[i].trained, .row = static_cast<int64_t>(i)});
    EXPECT_TRUE(added.ok()) << added;
  }
  const absl::Status written = writer.Write(path);
  EXPECT_TRUE(written.ok()) << written;
}

Shard MakeShard(const std::vector<OwnedRow>& rows) {
  absl::StatusOr<TempFolder> folder = TempFolder::Make("shard");
  EXPECT_TRUE(folder.ok()) << folder.status();
  WriteShard(rows, folder->path() / "x.shard");
  absl::StatusOr<Shard> shard = Shard::Open(folder->path() / "x.shard");
  EXPECT_TRUE(shard.ok()) << shard.status();
  return *std::move(shard);
}

Shard MakeShardVisitedInOrder(const std::vector<OwnedRow>& rows, uint64_t seed) {
  const std::vector<uint32_t> order = EpochOrder(seed, 0, rows.size());
  std::vector<OwnedRow> placed(rows.size());
  for (size_t visit = 0; visit < rows.size(); ++visit) placed[order[visit]] = rows[visit];
  return MakeShard(placed);
}

}  // namespace lathe::testing
