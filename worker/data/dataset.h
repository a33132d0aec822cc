#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/spec/job_spec.h"
#include "worker/data/report.h"
#include "worker/data/scan.h"

// What lathe-prepare does with a data set: check it, show one row, prepare it for training.
// docs/data.md. All functions may be called from several threads.

namespace lathe {

// Looked at: max_length, on_too_long, validation_fraction, seed of `spec`, which must be valid.
struct DatasetOptions {
  JobSpec spec;
  // The model's (ModelConfig); a row of more tokens is too long whatever max_length is.
  int64_t max_positions = std::numeric_limits<int64_t>::max();
  int threads = 1;
  ProgressFn progress = [](absl::string_view, int64_t) { return absl::OkStatus(); };
};

// Validate() for the fields that count here: `model` and `dataset` may be empty.
absl::Status ValidateForData(JobSpec spec);
// SetJobField(), then ValidateForData(). For single settings without a whole job.
absl::Status SetDataField(JobSpec& spec, absl::string_view key, absl::string_view text);

// One pass. Every row may be refused: that is a report too. `model` null: no tokens are counted.
// InvalidArgument: no row at all, or not a file that row_reader.h takes.
absl::StatusOr<DatasetReport> CheckDataset(const DataSource& source, const TextModel* model,
                                           const DatasetOptions& options);

struct PreviewToken {
  int32_t id = 0;
  std::string text;  // Of this token alone; U+FFFD for a part of a character.
  bool trained = false;
  std::string reason;  // encode.h, TokenReason().
};

struct DatasetPreview {
  // The row's tokens, then at most 256 that were cut off (reason "truncated").
  std::vector<PreviewToken> tokens;
  int64_t row = 0;
  int64_t line = 0;
  std::string template_sha256;
  std::string row_sha256;  // RowSha256() of the row in its shard.
};

// OutOfRange: no such row. InvalidArgument: the row is refused, and why.
absl::StatusOr<DatasetPreview> PreviewRow(const DataSource& source, const TextModel& model,
                                          int64_t row, const DatasetOptions& options);

// As --json shows it: the field names of lathe.v1.DatasetPreview.
std::string PreviewToJson(const DatasetPreview& preview);

// Two passes, the second with tokens. Fills `output` (made if missing) with train.shard,
// validation.shard (shard.h) and report.json, each of them atomically and the report last.
// InvalidArgument names the first reason: no row at all, no row that can be trained, a list that
// breaks off, or a too long row with on_too_long: error. FailedPrecondition: the file changed
// between the passes.
absl::StatusOr<DatasetReport> PrepareDataset(const DataSource& source, const TextModel& model,
                                             const std::filesystem::path& output,
                                             const DatasetOptions& options);

}  // namespace lathe
