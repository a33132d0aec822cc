#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "worker/data/problem.h"
#include "worker/data/row.h"

namespace lathe {

// What a check says about a whole data set. Mirrors lathe.v1.DatasetReport.
struct DatasetReport {
  int64_t rows = 0;
  int64_t good_rows = 0;
  int64_t refused_rows = 0;
  int64_t training_rows = 0;
  int64_t validation_rows = 0;
  std::vector<RowProblem> problems;  // By row. At most 1000; problems_total counts all.
  int64_t problems_total = 0;
  // With a model only. Tokens of the good rows, after cutting.
  int64_t total_tokens = 0;
  int64_t trained_tokens = 0;
  int64_t longest_row_tokens = 0;  // Before cutting.
  int64_t truncated_rows = 0;
  std::map<std::string, int64_t> rows_by_format;  // Of the good rows.
  std::map<std::string, int64_t> rows_by_task;
};

// Collects problems within bounds: errors first, few warnings, a field that is not used only once.
class ProblemList {
 public:
  void Add(RowProblem problem);
  int64_t total() const { return total_; }
  const std::optional<RowProblem>& first_error() const { return first_error_; }
  std::vector<RowProblem> TakeSorted();

 private:
  std::vector<RowProblem> errors_;
  std::vector<RowProblem> warnings_;
  std::set<std::string> unknown_fields_;
  std::optional<RowProblem> first_error_;  // By row.
  int64_t total_ = 0;
};

// As report.json and --json show it: the field names of lathe.v1.DatasetReport.
std::string ReportToJson(const DatasetReport& report);

}  // namespace lathe
