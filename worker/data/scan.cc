#include "worker/data/scan.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace lathe {
namespace {

// A batch is what is in memory at a time: some rows to share among threads, or one huge one.
constexpr size_t kBatchRows = 512;
constexpr size_t kBatchBytes = size_t{4} << 20;

using Judged = absl::StatusOr<JudgedRow>;

absl::StatusOr<std::vector<RawRow>> ReadBatch(RowReader& reader) {
  std::vector<RawRow> batch;
  size_t bytes = 0;
  while (batch.size() < kBatchRows && bytes < kBatchBytes) {
    RawRow row;
    LATHE_ASSIGN_OR_RETURN(const bool more, reader.Next(row));
    if (!more) break;
    bytes += row.text.size();
    batch.push_back(std::move(row));
  }
  return batch;
}

std::vector<Judged> JudgeBatch(const std::vector<RawRow>& batch, const ScanOptions& options) {
  std::vector<Judged> judged(batch.size(), Judged(absl::UnknownError("not judged")));
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < batch.size(); i = next++) judged[i] = JudgeRow(batch[i], options);
  };
  std::vector<std::jthread> helpers;
  for (size_t i = 1; i < std::min(batch.size(), static_cast<size_t>(options.threads)); ++i) {
    helpers.emplace_back(work);
  }
  work();
  helpers.clear();  // Joins.
  return judged;
}

}  // namespace

absl::StatusOr<JudgedRow> JudgeRow(const RawRow& raw, const ScanOptions& options) {
  JudgedRow judged;
  judged.row = raw.row;
  judged.line = raw.line;
  if (raw.fault) {
    judged.parsed.findings.Add(raw.fault->code, raw.fault->reason);
    return judged;
  }
  judged.parsed = ParseRow(raw.text);
  if (options.model == nullptr || !judged.parsed.row) return judged;
  absl::StatusOr<EncodedRow> encoded =
      EncodeRow(*options.model, judged.parsed.row->conversation, options.length, options.too_long,
                judged.parsed.findings, judged.parsed.row->tools);
  if (!encoded.ok()) {
    return Annotate(encoded.status(), absl::StrCat("line ", raw.line, " (row ", raw.row, ")"));
  }
  judged.encoded = *std::move(encoded);
  return judged;
}

absl::Status ScanRows(const DataSource& source, const ScanOptions& options,
                      const ProgressFn& progress,
                      const std::function<absl::Status(JudgedRow&& row)>& consume) {
  LATHE_ASSIGN_OR_RETURN(RowReader reader,
                         RowReader::Open(source.path, source.format, options.limits));
  const absl::string_view phase = options.model == nullptr ? "read" : "tokenize";
  int64_t rows = 0;
  while (true) {
    LATHE_RETURN_IF_ERROR(progress(phase, rows));
    LATHE_ASSIGN_OR_RETURN(const std::vector<RawRow> batch, ReadBatch(reader));
    if (batch.empty()) return absl::OkStatus();
    for (Judged& judged : JudgeBatch(batch, options)) {
      LATHE_RETURN_IF_ERROR(judged.status());
      LATHE_RETURN_IF_ERROR(consume(*std::move(judged)));
    }
    rows += static_cast<int64_t>(batch.size());
  }
}

}  // namespace lathe
