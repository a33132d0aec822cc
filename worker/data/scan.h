#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "worker/data/encode.h"
#include "worker/data/row.h"
#include "worker/data/row_reader.h"

// One pass over a user's file: every row is judged by itself, in order, with bounded memory.

namespace lathe {

struct DataSource {
  std::filesystem::path path;
  std::string format;  // "", "json" or "jsonl": row_reader.h.
};

// Called now and then with what is done ("read", "tokenize") and how many rows so far. An error
// ends the work with that error: how a caller cancels.
using ProgressFn = std::function<absl::Status(absl::string_view phase, int64_t rows)>;

struct JudgedRow {
  int64_t row = 0;
  int64_t line = 0;
  ParsedRow parsed;
  std::optional<EncodedRow> encoded;  // With a model, for a row that parsed and is not refused.

  bool good() const { return !parsed.findings.refused(); }
};

struct ScanOptions {
  const TextModel* model = nullptr;  // Null: rows are parsed only. Must outlive the scan.
  RowLength length;
  TooLong too_long = TooLong::kTruncateAnswer;
  int threads = 1;  // Rows are judged on that many threads; the order does not depend on it.
  RowLimits limits;
};

// Pure.
absl::StatusOr<JudgedRow> JudgeRow(const RawRow& raw, const ScanOptions& options);

// Gives every row of the file to `consume`, on the calling thread. Ends with the first error of
// `consume` or `progress`.
absl::Status ScanRows(const DataSource& source, const ScanOptions& options,
                      const ProgressFn& progress,
                      const std::function<absl::Status(JudgedRow&& row)>& consume);

}  // namespace lathe
