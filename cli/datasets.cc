#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "cli/commands.h"
#include "cli/connection.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/transfer.h"
#include "common/base/human.h"
#include "common/base/status.h"

namespace lathe::cli {
namespace {

constexpr absl::Duration kCheckDeadline = absl::Minutes(10);
constexpr int kShownProblems = 20;

void PrintCounts(const char* title, const google::protobuf::Map<std::string, int64_t>& counts) {
  std::vector<std::pair<std::string, int64_t>> sorted(counts.begin(), counts.end());
  std::sort(sorted.begin(), sorted.end());
  if (sorted.empty()) return;
  std::string line;
  for (const auto& [name, count] : sorted) absl::StrAppend(&line, "  ", name, " ", count);
  absl::PrintF("%s:%s\n", title, line);
}

void PrintReport(const v1::DatasetReport& report) {
  absl::PrintF("%d rows: %d good (%d to train on, %d held out), %d refused\n", report.rows(),
               report.good_rows(), report.training_rows(), report.validation_rows(),
               report.refused_rows());
  PrintCounts("forms", report.rows_by_format());
  PrintCounts("tasks", report.rows_by_task());
  if (report.total_tokens() > 0) {
    absl::PrintF("tokens: %d, of which %d trained (%.0f %%); longest row %d; %d rows truncated\n",
                 report.total_tokens(), report.trained_tokens(),
                 100.0 * static_cast<double>(report.trained_tokens()) /
                     static_cast<double>(report.total_tokens()),
                 report.longest_row_tokens(), report.truncated_rows());
  }
  const int shown = std::min(kShownProblems, report.problems_size());
  for (int i = 0; i < shown; ++i) {
    const v1::RowProblem& problem = report.problems(i);
    absl::PrintF("line %d: %s: %s (%s)\n", problem.line(), problem.severity(), problem.reason(),
                 problem.code());
  }
  if (report.problems_total() > shown) {
    absl::PrintF("... and %d more; --json lists up to 1000\n", report.problems_total() - shown);
  }
}

void PrintDataset(const v1::Dataset& dataset) {
  absl::PrintF("%s: %s from %s, sha256 %s\n", dataset.name(), HumanBytes(dataset.blob().size()),
               dataset.label(), dataset.blob().sha256());
}

// "template 40, tools 120, user 3, assistant 9": whose the tokens are, in the order of their first.
std::string Origins(const v1::DatasetPreview& preview) {
  std::vector<std::pair<std::string, int>> origins;
  for (const v1::PreviewToken& token : preview.tokens()) {
    const auto known = std::find_if(origins.begin(), origins.end(), [&](const auto& origin) {
      return origin.first == token.reason();
    });
    if (known != origins.end()) {
      ++known->second;
    } else {
      origins.emplace_back(token.reason(), 1);
    }
  }
  return absl::StrJoin(origins, ", ", absl::PairFormatter(" "));
}

// Trained tokens are green and, without colour, stand in [brackets].
void PrintPreview(const v1::DatasetPreview& preview, bool color) {
  int64_t trained = 0;
  std::string text;
  bool in_brackets = false;
  for (const v1::PreviewToken& token : preview.tokens()) {
    trained += token.trained() ? 1 : 0;
    if (!color && token.trained() != in_brackets) {
      text += token.trained() ? "[" : "]";
      in_brackets = token.trained();
    }
    const std::string shown = absl::StrReplaceAll(token.text(), {{"\x1b", "\\e"}});
    text += token.trained() ? Paint(shown, Color::kGreen, color) : Paint(shown, Color::kDim, color);
  }
  if (in_brackets) text += "]";
  if (text.empty() || text.back() != '\n') text += "\n";
  absl::PrintF("row %d (line %d): %d tokens, %d trained (%s), template %s\n", preview.row(),
               preview.line(), preview.tokens_size(), trained,
               color ? Paint("green", Color::kGreen, true) : "in [brackets]",
               preview.template_sha256().substr(0, 12));
  absl::PrintF("tokens of: %s\n%s", Origins(preview), text);
}

}  // namespace

absl::StatusOr<int> DatasetsUpload(const GlobalOptions& global, const UploadOptions& options) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  LATHE_ASSIGN_OR_RETURN(const v1::Dataset dataset,
                         UploadDataset(*connection, options.name, options.from, options.format));
  if (global.json) {
    PrintJson(dataset);
  } else {
    PrintDataset(dataset);
  }
  return kDone;
}

absl::StatusOr<int> DatasetsList(const GlobalOptions& global) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  grpc::ClientContext context;
  connection->Prepare(context);
  v1::ListDatasetsResponse response;
  LATHE_RETURN_IF_ERROR(FromService(connection->datasets().ListDatasets(&context, {}, &response)));
  if (global.json) {
    PrintJson(response);
    return kDone;
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Dataset& dataset : response.datasets()) {
    rows.push_back({dataset.name(), HumanBytes(dataset.blob().size()), dataset.label(),
                    dataset.blob().sha256().substr(0, 12)});
  }
  PrintTable({"NAME", "SIZE", "FILE", "SHA256"}, rows);
  return kDone;
}

absl::StatusOr<int> DatasetsGet(const GlobalOptions& global, const std::string& name) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  grpc::ClientContext context;
  connection->Prepare(context);
  v1::GetDatasetRequest request;
  request.set_name(name);
  v1::Dataset dataset;
  LATHE_RETURN_IF_ERROR(
      FromService(connection->datasets().GetDataset(&context, request, &dataset)));
  if (global.json) {
    PrintJson(dataset);
  } else {
    PrintDataset(dataset);
  }
  return kDone;
}

absl::StatusOr<int> DatasetsDelete(const GlobalOptions& global, const std::string& name) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  grpc::ClientContext context;
  connection->Prepare(context);
  v1::DeleteDatasetRequest request;
  request.set_name(name);
  v1::DeleteDatasetResponse response;
  LATHE_RETURN_IF_ERROR(
      FromService(connection->datasets().DeleteDataset(&context, request, &response)));
  if (global.json) {
    PrintJson(response);
  } else {
    absl::PrintF("%s: deleted\n", name);
  }
  return kDone;
}

absl::StatusOr<int> DatasetsCheck(const GlobalOptions& global, const CheckOptions& options) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  grpc::ClientContext context;
  connection->Prepare(context, kCheckDeadline);
  v1::CheckDatasetRequest request;
  request.set_name(options.name);
  request.set_model(options.model);
  request.set_max_length(options.max_length);
  v1::DatasetReport report;
  LATHE_RETURN_IF_ERROR(
      FromService(connection->datasets().CheckDataset(&context, request, &report)));
  if (global.json) {
    PrintJson(report);
  } else {
    PrintReport(report);
  }
  return report.good_rows() > 0 ? kDone : kFailed;
}

absl::StatusOr<int> DatasetsPreview(const GlobalOptions& global, const PreviewOptions& options) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  grpc::ClientContext context;
  connection->Prepare(context, kCheckDeadline);
  v1::PreviewDatasetRequest request;
  request.set_name(options.name);
  request.set_model(options.model);
  request.set_row(options.row);
  request.set_max_length(options.max_length);
  v1::DatasetPreview preview;
  LATHE_RETURN_IF_ERROR(
      FromService(connection->datasets().PreviewDataset(&context, request, &preview)));
  if (global.json) {
    PrintJson(preview);
  } else {
    PrintPreview(preview, UseColor(options.color));
  }
  return kDone;
}

}  // namespace lathe::cli
