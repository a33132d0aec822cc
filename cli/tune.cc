#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "cli/commands.h"
#include "cli/connection.h"
#include "cli/hub/hub_reference.h"
#include "cli/job_request.h"
#include "cli/model_source.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/terminal.h"
#include "cli/transfer.h"
#include "cli/watch.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/spec/given.h"

namespace lathe::cli {
namespace {

// A name made from another text: "My Data (v2)" -> "my-data-v2".
std::string NameFromText(const std::string& text) {
  std::string name;
  for (const char c : absl::AsciiStrToLower(text)) {
    const bool good = absl::ascii_isalnum(static_cast<unsigned char>(c)) != 0;
    if (good) {
      name.push_back(c);
    } else if (!name.empty() && name.back() != '-') {
      name.push_back('-');
    }
  }
  while (!name.empty() && name.back() == '-') name.pop_back();
  return name.empty() ? "data" : name.substr(0, 40);
}

std::string NameFromPath(const std::filesystem::path& path) {
  return NameFromText(path.stem().string());
}

// The last part of a path, or a hub's name of the model.
absl::StatusOr<std::string> NameOfSource(const std::string& source) {
  if (IsHubReference(source)) {
    LATHE_ASSIGN_OR_RETURN(const HubReference reference, ParseHubReference(source));
    return NameFromText(reference.name);
  }
  std::error_code error;
  std::filesystem::path path = std::filesystem::absolute(source, error).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return NameFromPath(path);
}

// Under the file's own name, or with a part of its hash behind it when that name holds other bytes.
absl::StatusOr<std::string> Upload(Connection& connection, const std::filesystem::path& file) {
  const std::string name = NameFromPath(file);
  absl::StatusOr<v1::Dataset> dataset = UploadDataset(connection, name, file, "");
  if (dataset.status().code() != absl::StatusCode::kAlreadyExists) {
    LATHE_RETURN_IF_ERROR(dataset.status());
    return name;
  }
  LATHE_ASSIGN_OR_RETURN(const std::string hash, Sha256OfFile(file));
  const std::string versioned = absl::StrCat(name, "-", hash.substr(0, 8));
  LATHE_RETURN_IF_ERROR(UploadDataset(connection, versioned, file, "").status());
  return versioned;
}

// A path or a hub's model is imported first, under its own name.
absl::StatusOr<std::string> ModelName(const GlobalOptions& global, Connection& connection,
                                      const std::string& model) {
  std::error_code error;
  const bool is_path = model.find('/') != std::string::npos || model.ends_with(".gguf");
  if (!is_path) return model;
  if (!IsHubReference(model) && !std::filesystem::exists(model, error)) {
    return absl::NotFoundError(absl::StrCat("--model is ", model,
                                            ", which does not exist; give a name (lathe models "
                                            "list), a path or hf:OWNER/NAME"));
  }
  Progress progress(IsTerminal(2));
  const auto show = [&](const std::string& line) {
    progress.Show(absl::StrCat(model, ": ", line), absl::Now());
  };
  LATHE_ASSIGN_OR_RETURN(const std::string name, NameOfSource(model));
  LATHE_ASSIGN_OR_RETURN(const std::filesystem::path path, LocalModel(global.hub, model, show));
  LATHE_RETURN_IF_ERROR(ImportModel(connection, name, path, show).status());
  return name;
}

absl::Status CheckRows(Connection& connection, const JobSpec& spec, bool json) {
  grpc::ClientContext context;
  connection.Prepare(context, absl::Minutes(10));
  v1::CheckDatasetRequest request;
  request.set_name(spec.dataset);
  request.set_model(spec.model);
  request.set_max_length(spec.max_length);
  v1::DatasetReport report;
  LATHE_RETURN_IF_ERROR(
      FromService(connection.datasets().CheckDataset(&context, request, &report)));
  if (json) {
    PrintJson(report);
  } else {
    absl::PrintF("data set %s: %d good rows, %d refused, %d tokens, %d trained\n", spec.dataset,
                 report.good_rows(), report.refused_rows(), report.total_tokens(),
                 report.trained_tokens());
  }
  if (report.refused_rows() > 0 && !json) {
    absl::PrintF("  see why: lathe datasets check %s --model %s\n", spec.dataset, spec.model);
  }
  if (report.trained_tokens() > 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "data set ", spec.dataset, " has no trained token; see why: lathe datasets check ",
      spec.dataset, " --model ", spec.model));
}

}  // namespace

absl::StatusOr<int> Tune(const GlobalOptions& global, const TuneOptions& options) {
  JobSpec spec;
  LATHE_RETURN_IF_ERROR(ApplySettings(options.set, spec));
  LATHE_RETURN_IF_ERROR(CheckGiven(spec));
  spec.name = options.name;
  LATHE_RETURN_IF_ERROR(DescribeFile(options.file).status());
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  LATHE_ASSIGN_OR_RETURN(spec.model, ModelName(global, *connection, options.model));
  LATHE_ASSIGN_OR_RETURN(spec.dataset, Upload(*connection, options.file));
  LATHE_RETURN_IF_ERROR(Validate(spec));
  LATHE_RETURN_IF_ERROR(CheckRows(*connection, spec, global.json));
  LATHE_ASSIGN_OR_RETURN(const v1::Job job, CreateJob(*connection, spec, ""));
  LATHE_ASSIGN_OR_RETURN(const WatchResult result, WatchJob(global, *connection, job.id()));
  if (global.json || result.detached) return result.exit_code;
  absl::PrintF("%s", Summary(result.job));
  if (result.exit_code == kDone) {
    absl::PrintF("talk to it: lathe chat %s --beside %s\n", result.job.result_model(), spec.model);
    absl::PrintF("take it:    lathe models export %s --to DIR\n", result.job.result_model());
  } else {
    absl::PrintF("its output: lathe jobs logs %s\n", job.id());
  }
  return result.exit_code;
}

}  // namespace lathe::cli
