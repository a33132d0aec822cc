// A user's rows, and the shards that they become.

#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_targets.h"
#include "worker/data/row.h"
#include "worker/data/row_reader.h"
#include "worker/data/shard.h"

namespace lathe {

void FuzzRows(absl::string_view input) {
  const InputFile file(input);
  for (const char* format : {"", "json", "jsonl"}) {
    auto reader = RowReader::Open(file.path(), format);
    RequireGoodError(reader.status());
    if (!reader.ok()) continue;
    RawRow raw;
    while (true) {
      const auto more = reader->Next(raw);
      RequireGoodError(more.status());
      if (!more.ok() || !*more) break;
      if (raw.fault) continue;
      const ParsedRow parsed = ParseRow(raw.text);
      Require(parsed.row.has_value() != parsed.findings.refused(),
              "a row is there exactly if nothing refuses it");
    }
  }
}

void FuzzShard(absl::string_view input) {
  const InputFile file(absl::StrCat(input, Sha256Hex(input)));
  const auto shard = Shard::Open(file.path());
  RequireGoodError(shard.status());
  if (!shard.ok()) return;
  size_t num_tokens = 0;
  for (size_t i = 0; i < shard->num_rows(); ++i) {
    const TokenRow row = shard->row(i);
    Require(!row.ids.empty() && row.ids.size() == row.trained.size() && row.trained[0] == 0,
            "a row that no writer writes");
    num_tokens += row.ids.size();
    RowSha256(row);
  }
  Require(num_tokens <= input.size(), "rows have more tokens than the file");
}

}  // namespace lathe
