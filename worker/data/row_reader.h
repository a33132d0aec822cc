#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/problem.h"

// Cuts a user's file into rows without understanding them: one row is in memory at a time.

namespace lathe {

struct RowLimits {
  size_t max_row_bytes = size_t{16} << 20;
  size_t max_file_bytes = size_t{4} << 30;
  int64_t max_rows = 10'000'000;
};

struct RawRow {
  int64_t row = 0;   // From 0.
  int64_t line = 0;  // Line of a JSONL file, element of a JSON list; from 1.
  std::string text;  // JSON of one row, not yet looked at. Empty if there is a fault.
  std::optional<Finding> fault;
};

// Thread-compatible. JSONL: one JSON value per line, blank lines are no rows. JSON: one list, cut
// at the commas of its top level. A UTF-8 byte order mark is skipped.
class RowReader {
 public:
  // `format`: "json", "jsonl", or "" for json if the first character is '[' and jsonl otherwise.
  // InvalidArgument: unknown format, no regular file, over the size limit, UTF-16, a compressed
  // file, or not a list where `format` says json.
  static absl::StatusOr<RowReader> Open(const std::filesystem::path& path, absl::string_view format,
                                        const RowLimits& limits = {});
  RowReader(RowReader&&) noexcept;
  RowReader& operator=(RowReader&&) noexcept;
  ~RowReader();

  // False at the end. A list that breaks off gives one last row with kBrokenList.
  // InvalidArgument: more rows than allowed. Other codes: the file cannot be read.
  absl::StatusOr<bool> Next(RawRow& row);

 private:
  struct State;
  explicit RowReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace lathe
