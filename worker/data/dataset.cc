#include "worker/data/dataset.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/spec/field.h"
#include "nlohmann/json.hpp"
#include "worker/data/split.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxCutTokensShown = 256;
constexpr size_t kMaxTasks = 1000;

// What is kept of a row until all rows are known.
struct RowRecord {
  int64_t line = 0;
  std::optional<SplitRow> split;  // Set if the row parsed.
  bool good = false;
  int64_t tokens = 0;
  int64_t trained_tokens = 0;
};

// Adds up judged rows; the split and what depends on it come at the end.
class Tally {
 public:
  void Add(const JudgedRow& judged);
  // `sides` has one entry per row. REQUIRES: called once, last.
  DatasetReport Finish(const std::vector<Side>& sides);

  std::vector<std::optional<SplitRow>> split_rows() const;
  const std::vector<RowRecord>& records() const { return records_; }
  const std::optional<RowProblem>& first_error() const { return problems_.first_error(); }
  const std::optional<RowProblem>& broken_list() const { return broken_list_; }

 private:
  void CountGood(const JudgedRow& judged, RowRecord& record);

  DatasetReport report_;
  ProblemList problems_;
  std::vector<RowRecord> records_;
  absl::flat_hash_set<ContentKey> seen_;
  std::optional<RowProblem> broken_list_;
};

void Tally::CountGood(const JudgedRow& judged, RowRecord& record) {
  if (!judged.parsed.row) return;
  const Row& row = *judged.parsed.row;
  ++report_.rows_by_format[std::string(RowFormName(row.form))];
  const bool has_room =
      report_.rows_by_task.size() < kMaxTasks || report_.rows_by_task.contains(row.task);
  if (!row.task.empty()) ++report_.rows_by_task[has_room ? row.task : "(others)"];
  if (!judged.encoded) return;
  const EncodedRow& encoded = *judged.encoded;
  record.tokens = static_cast<int64_t>(encoded.ids.size());
  record.trained_tokens = std::count(encoded.trained.begin(), encoded.trained.end(), 1);
  report_.truncated_rows += encoded.truncated() ? 1 : 0;
}

void Tally::Add(const JudgedRow& judged) {
  RowRecord record;
  record.line = judged.line;
  record.good = judged.good();
  for (const Finding& finding : judged.parsed.findings.list()) {
    RowProblem problem{judged.line, judged.row, finding.code, finding.reason};
    if (finding.code == ProblemCode::kBrokenList) broken_list_ = problem;
    problems_.Add(std::move(problem));
  }
  if (judged.encoded) {
    report_.longest_row_tokens =
        std::max(report_.longest_row_tokens, static_cast<int64_t>(judged.encoded->rendered.size()));
  }
  if (judged.parsed.row) {
    record.split = SplitRow{ContentKeyOf(judged.parsed.row->conversation, judged.parsed.row->tools),
                            judged.parsed.row->split};
    if (!seen_.insert(record.split->key).second) {
      problems_.Add({judged.line, judged.row, ProblemCode::kDuplicateRow,
                     "has the same messages as an earlier row"});
    }
  }
  if (record.good) CountGood(judged, record);
  records_.push_back(record);
}

std::vector<std::optional<SplitRow>> Tally::split_rows() const {
  std::vector<std::optional<SplitRow>> rows;
  rows.reserve(records_.size());
  for (const RowRecord& record : records_) rows.push_back(record.split);
  return rows;
}

DatasetReport Tally::Finish(const std::vector<Side>& sides) {
  report_.rows = static_cast<int64_t>(records_.size());
  for (size_t i = 0; i < records_.size(); ++i) {
    const RowRecord& record = records_[i];
    if (!record.good) continue;
    if (sides[i] == Side::kInTraining) {
      problems_.Add({record.line, static_cast<int64_t>(i), ProblemCode::kInTraining,
                     "is held out, but a training row has the same messages"});
      continue;
    }
    ++report_.good_rows;
    ++(sides[i] == Side::kValidation ? report_.validation_rows : report_.training_rows);
    report_.total_tokens += record.tokens;
    report_.trained_tokens += record.trained_tokens;
  }
  report_.refused_rows = report_.rows - report_.good_rows;
  report_.problems_total = problems_.total();
  report_.problems = problems_.TakeSorted();
  return std::move(report_);
}

absl::Status NoRows(const DataSource& source) {
  return absl::InvalidArgumentError(
      absl::StrCat(source.path.string(), ": has no rows; at least one is needed"));
}

std::vector<Side> Split(const Tally& tally, const JobSpec& spec) {
  return SplitRows(tally.split_rows(), spec.validation_fraction, spec.seed);
}

ScanOptions ScanOptionsFrom(const DatasetOptions& options, const TextModel* model, int threads) {
  ScanOptions scan;
  scan.model = model;
  scan.length = {options.spec.max_length, options.max_positions};
  scan.too_long = ParseTooLong(options.spec.on_too_long);
  scan.threads = std::clamp(threads, 1, 64);
  return scan;
}

absl::StatusOr<Tally> ScanAll(const DataSource& source, const TextModel* model,
                              const DatasetOptions& options) {
  Tally tally;
  const ScanOptions scan = ScanOptionsFrom(options, model, options.threads);
  LATHE_RETURN_IF_ERROR(ScanRows(source, scan, options.progress, [&](JudgedRow&& judged) {
    tally.Add(judged);
    return absl::OkStatus();
  }));
  if (tally.records().empty()) return NoRows(source);
  return tally;
}

// The first pass of prepare finds the sides; this is the second.
class Preparation {
 public:
  Preparation(const DataSource& source, const TextModel& model, const DatasetOptions& options,
              std::vector<Side> sides)
      : source_(source),
        too_long_(ParseTooLong(options.spec.on_too_long)),
        sides_(std::move(sides)),
        training_(model.template_sha256()),
        validation_(model.template_sha256()) {}

  absl::Status Add(const JudgedRow& judged);
  absl::StatusOr<DatasetReport> Finish(const fs::path& output);

 private:
  absl::Status Changed() const {
    return absl::FailedPreconditionError(
        absl::StrCat(source_.path.string(), ": changed while it was read"));
  }

  const DataSource& source_;
  const TooLong too_long_;
  const std::vector<Side> sides_;
  ShardWriter training_;
  ShardWriter validation_;
  Tally tally_;
};

absl::Status Preparation::Add(const JudgedRow& judged) {
  const auto index = static_cast<size_t>(judged.row);
  if (index >= sides_.size() || (sides_[index] == Side::kNone) == judged.parsed.row.has_value()) {
    return Changed();
  }
  tally_.Add(judged);
  if (!judged.good()) {
    const Finding& error = judged.parsed.findings.first_error();
    if (error.code != ProblemCode::kTooLong || too_long_ != TooLong::kError) {
      return absl::OkStatus();
    }
    const RowProblem problem{judged.line, judged.row, error.code, error.reason};
    return absl::InvalidArgumentError(absl::StrCat(
        source_.path.string(), ": ", DescribeProblem(problem), "; on_too_long is error"));
  }
  if (sides_[index] == Side::kInTraining) return absl::OkStatus();
  ShardWriter& writer = sides_[index] == Side::kValidation ? validation_ : training_;
  return writer.Add(judged.encoded->view(judged.row));
}

absl::StatusOr<DatasetReport> Preparation::Finish(const fs::path& output) {
  if (tally_.records().size() != sides_.size()) return Changed();
  if (training_.num_rows() == 0) {
    const auto& error = tally_.first_error();
    const std::string reason =
        error ? absl::StrCat("; ", DescribeProblem(*error)) : "; every row is held out";
    return absl::InvalidArgumentError(absl::StrCat(source_.path.string(), ": none of ",
                                                   sides_.size(), " rows can be trained", reason));
  }
  DatasetReport report = tally_.Finish(sides_);
  LATHE_RETURN_IF_ERROR(MakeFolder(output));
  LATHE_RETURN_IF_ERROR(training_.Write(output / "train.shard"));
  LATHE_RETURN_IF_ERROR(validation_.Write(output / "validation.shard"));
  LATHE_RETURN_IF_ERROR(WriteFileAtomically(output / "report.json", ReportToJson(report) + "\n"));
  return report;
}

absl::StatusOr<JudgedRow> FindRow(const DataSource& source, int64_t row, const ScanOptions& options,
                                  const ProgressFn& progress) {
  LATHE_ASSIGN_OR_RETURN(RowReader reader,
                         RowReader::Open(source.path, source.format, options.limits));
  RawRow raw;
  int64_t rows = 0;
  while (true) {
    if (rows % 4096 == 0) LATHE_RETURN_IF_ERROR(progress("read", rows));
    LATHE_ASSIGN_OR_RETURN(const bool more, reader.Next(raw));
    if (!more) break;
    if (raw.row == row) return JudgeRow(raw, options);
    ++rows;
  }
  return absl::OutOfRangeError(
      absl::StrCat(source.path.string(), ": row is ", row, "; must be in [0, ", rows, ")"));
}

}  // namespace

absl::Status ValidateForData(JobSpec spec) {
  if (spec.model.empty()) spec.model = "unnamed";
  if (spec.dataset.empty()) spec.dataset = "unnamed";
  return Validate(spec);
}

absl::Status SetDataField(JobSpec& spec, absl::string_view key, absl::string_view text) {
  LATHE_RETURN_IF_ERROR(SetJobField(spec, key, text));
  return ValidateForData(spec);
}

absl::StatusOr<DatasetReport> CheckDataset(const DataSource& source, const TextModel* model,
                                           const DatasetOptions& options) {
  LATHE_ASSIGN_OR_RETURN(Tally tally, ScanAll(source, model, options));
  return tally.Finish(Split(tally, options.spec));
}

absl::StatusOr<DatasetPreview> PreviewRow(const DataSource& source, const TextModel& model,
                                          int64_t row, const DatasetOptions& options) {
  const ScanOptions scan = ScanOptionsFrom(options, &model, 1);
  LATHE_ASSIGN_OR_RETURN(const JudgedRow judged, FindRow(source, row, scan, options.progress));
  if (!judged.good()) {
    const Finding& error = judged.parsed.findings.first_error();
    return absl::InvalidArgumentError(
        absl::StrCat(source.path.string(), ": ",
                     DescribeProblem({judged.line, judged.row, error.code, error.reason})));
  }
  if (!judged.encoded || !judged.parsed.row) {
    return absl::InternalError(absl::StrCat("row ", row, " is good and has no tokens"));
  }
  DatasetPreview preview;
  preview.row = judged.row;
  preview.line = judged.line;
  preview.template_sha256 = model.template_sha256();
  preview.row_sha256 = RowSha256(judged.encoded->view(judged.row));
  const EncodedRow& encoded = *judged.encoded;
  const size_t shown = std::min(encoded.rendered.size(), encoded.ids.size() + kMaxCutTokensShown);
  for (size_t i = 0; i < shown; ++i) {
    const int32_t id = encoded.rendered[i].id;
    const bool trained = i < encoded.ids.size() && encoded.trained[i] == 1;
    preview.tokens.push_back(
        {id, model.TokenText(id), trained,
         std::string(TokenReason(encoded, judged.parsed.row->conversation, i))});
  }
  return preview;
}

std::string PreviewToJson(const DatasetPreview& preview) {
  nlohmann::ordered_json tokens = nlohmann::ordered_json::array();
  for (const PreviewToken& token : preview.tokens) {
    tokens.push_back({{"id", token.id},
                      {"text", token.text},
                      {"trained", token.trained},
                      {"reason", token.reason}});
  }
  const nlohmann::ordered_json json = {{"row", preview.row},
                                       {"line", preview.line},
                                       {"template_sha256", preview.template_sha256},
                                       {"row_sha256", preview.row_sha256},
                                       {"tokens", tokens}};
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

absl::StatusOr<DatasetReport> PrepareDataset(const DataSource& source, const TextModel& model,
                                             const fs::path& output,
                                             const DatasetOptions& options) {
  LATHE_ASSIGN_OR_RETURN(const Tally first, ScanAll(source, nullptr, options));
  if (const auto& broken = first.broken_list()) {
    // Training on the part before the break would look like success.
    return absl::InvalidArgumentError(
        absl::StrCat(source.path.string(), ": ", DescribeProblem(*broken)));
  }
  Preparation preparation(source, model, options, Split(first, options.spec));
  const ScanOptions scan = ScanOptionsFrom(options, &model, options.threads);
  LATHE_RETURN_IF_ERROR(ScanRows(source, scan, options.progress,
                                 [&](JudgedRow&& judged) { return preparation.Add(judged); }));
  return preparation.Finish(output);
}

}  // namespace lathe
