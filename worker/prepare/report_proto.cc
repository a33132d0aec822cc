#include "worker/prepare/report_proto.h"

#include <string>

namespace lathe {
namespace {

v1::RowProblem ToProto(const RowProblem& problem) {
  v1::RowProblem proto;
  proto.set_line(problem.line);
  proto.set_row(problem.row);
  proto.set_code(std::string(ProblemName(problem.code)));
  proto.set_reason(problem.reason);
  proto.set_severity(SeverityOf(problem.code) == Severity::kError ? "error" : "warning");
  return proto;
}

}  // namespace

v1::DatasetReport ToProto(const DatasetReport& report) {
  v1::DatasetReport proto;
  proto.set_rows(report.rows);
  proto.set_good_rows(report.good_rows);
  proto.set_refused_rows(report.refused_rows);
  proto.set_training_rows(report.training_rows);
  proto.set_validation_rows(report.validation_rows);
  for (const RowProblem& problem : report.problems) *proto.add_problems() = ToProto(problem);
  proto.set_problems_total(report.problems_total);
  proto.set_total_tokens(report.total_tokens);
  proto.set_trained_tokens(report.trained_tokens);
  proto.set_longest_row_tokens(report.longest_row_tokens);
  proto.set_truncated_rows(report.truncated_rows);
  proto.mutable_rows_by_format()->insert(report.rows_by_format.begin(),
                                         report.rows_by_format.end());
  proto.mutable_rows_by_task()->insert(report.rows_by_task.begin(), report.rows_by_task.end());
  return proto;
}

v1::DatasetPreview ToProto(const DatasetPreview& preview) {
  v1::DatasetPreview proto;
  for (const PreviewToken& token : preview.tokens) {
    v1::PreviewToken* added = proto.add_tokens();
    added->set_id(token.id);
    added->set_text(token.text);
    added->set_trained(token.trained);
    added->set_reason(token.reason);
  }
  proto.set_row(preview.row);
  proto.set_line(preview.line);
  proto.set_template_sha256(preview.template_sha256);
  proto.set_row_sha256(preview.row_sha256);
  return proto;
}

}  // namespace lathe
