#include "worker/data/report.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "nlohmann/json.hpp"

namespace lathe {
namespace {

constexpr size_t kMaxProblems = 1000;
constexpr size_t kMaxWarnings = 200;
constexpr size_t kMaxUnknownFields = 50;

nlohmann::ordered_json ToJson(const RowProblem& problem) {
  const bool error = SeverityOf(problem.code) == Severity::kError;
  return {{"line", problem.line},
          {"row", problem.row},
          {"code", std::string(ProblemName(problem.code))},
          {"reason", problem.reason},
          {"severity", error ? "error" : "warning"}};
}

}  // namespace

void ProblemList::Add(RowProblem problem) {
  if (problem.code == ProblemCode::kUnknownField || problem.code == ProblemCode::kToolsIgnored ||
      problem.code == ProblemCode::kThoughtIgnored) {
    // What no row needs or no row gets would otherwise be a problem of every row.
    if (unknown_fields_.size() >= kMaxUnknownFields) return;
    if (!unknown_fields_.insert(problem.reason).second) return;
  }
  ++total_;
  if (SeverityOf(problem.code) == Severity::kWarning) {
    if (warnings_.size() < kMaxWarnings) warnings_.push_back(std::move(problem));
    return;
  }
  if (!first_error_ || problem.row < first_error_->row) first_error_ = problem;
  if (errors_.size() < kMaxProblems) errors_.push_back(std::move(problem));
}

std::vector<RowProblem> ProblemList::TakeSorted() {
  std::vector<RowProblem> all = std::exchange(errors_, {});
  const size_t room = std::min(kMaxProblems - all.size(), warnings_.size());
  std::move(warnings_.begin(), warnings_.begin() + static_cast<std::ptrdiff_t>(room),
            std::back_inserter(all));
  warnings_.clear();
  std::stable_sort(all.begin(), all.end(),
                   [](const RowProblem& a, const RowProblem& b) { return a.row < b.row; });
  return all;
}

std::string ReportToJson(const DatasetReport& report) {
  nlohmann::ordered_json problems = nlohmann::ordered_json::array();
  for (const RowProblem& problem : report.problems) problems.push_back(ToJson(problem));
  const nlohmann::ordered_json json = {{"rows", report.rows},
                                       {"good_rows", report.good_rows},
                                       {"refused_rows", report.refused_rows},
                                       {"training_rows", report.training_rows},
                                       {"validation_rows", report.validation_rows},
                                       {"total_tokens", report.total_tokens},
                                       {"trained_tokens", report.trained_tokens},
                                       {"longest_row_tokens", report.longest_row_tokens},
                                       {"truncated_rows", report.truncated_rows},
                                       {"rows_by_format", report.rows_by_format},
                                       {"rows_by_task", report.rows_by_task},
                                       {"problems_total", report.problems_total},
                                       {"problems", problems}};
  return json.dump(2);
}

}  // namespace lathe
