#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "cli/commands.h"
#include "cli/connection.h"
#include "cli/job_request.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/watch.h"
#include "common/base/id.h"
#include "common/base/status.h"
#include "common/config/job_file.h"
#include "common/spec/field.h"
#include "common/spec/given.h"
#include "common/spec_proto/job_spec_proto.h"

namespace lathe::cli {
namespace {

void PrintJob(const v1::Job& job) {
  absl::PrintF("%s", Summary(job));
  absl::PrintF("  model %s, data set %s, attempt %d, stage %s\n", job.spec().model(),
               job.spec().dataset(), job.attempt(), job.stage());
  if (!job.reason().empty()) absl::PrintF("  %s\n", job.reason());
  if (job.has_last_step()) {
    absl::PrintF("  step %d of %d, loss %.4f\n", job.last_step().step(),
                 job.last_step().num_steps(), job.last_step().loss());
  }
}

absl::StatusOr<v1::Job> GetJob(Connection& connection, const std::string& id) {
  grpc::ClientContext context;
  connection.Prepare(context);
  v1::GetJobRequest request;
  request.set_id(id);
  v1::Job job;
  LATHE_RETURN_IF_ERROR(FromService(connection.jobs().GetJob(&context, request, &job)));
  return job;
}

absl::StatusOr<JobSpec> SpecFrom(const SubmitOptions& options) {
  JobSpec spec;
  if (!options.file.empty()) {
    LATHE_ASSIGN_OR_RETURN(spec, LoadJobFile(options.file));
  }
  if (!options.model.empty()) spec.model = options.model;
  if (!options.dataset.empty()) spec.dataset = options.dataset;
  LATHE_RETURN_IF_ERROR(ApplySettings(options.set, spec));
  LATHE_RETURN_IF_ERROR(Validate(spec));
  LATHE_RETURN_IF_ERROR(CheckGiven(spec));
  return spec;
}

}  // namespace

absl::Status ApplySettings(const std::vector<std::string>& settings, JobSpec& spec) {
  for (const std::string& setting : settings) {
    const std::pair<std::string, std::string> pair =
        absl::StrSplit(setting, absl::MaxSplits('=', 1));
    if (setting.find('=') == std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--set is '", setting, "'; must be key=value (lathe jobs submit --explain)"));
    }
    LATHE_RETURN_IF_ERROR(SetJobField(spec, pair.first, pair.second));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Job> CreateJob(Connection& connection, const JobSpec& spec,
                                  const std::string& request_id) {
  v1::CreateJobRequest request;
  request.set_request_id(request_id.empty() ? NewUlid() : request_id);
  *request.mutable_spec() = GivenToProto(spec);
  grpc::ClientContext context;
  connection.Prepare(context);
  v1::Job job;
  LATHE_RETURN_IF_ERROR(FromService(connection.jobs().CreateJob(&context, request, &job)));
  return job;
}

absl::StatusOr<int> JobsSubmit(const GlobalOptions& global, const SubmitOptions& options) {
  if (options.explain) {
    absl::PrintF("%s", ExplainJobSpec());
    return kDone;
  }
  LATHE_ASSIGN_OR_RETURN(const JobSpec spec, SpecFrom(options));
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  LATHE_ASSIGN_OR_RETURN(const v1::Job job, CreateJob(*connection, spec, options.request_id));
  if (!options.watch) {
    if (global.json) {
      PrintJson(job);
    } else {
      absl::PrintF("%s\n", job.id());
      absl::FPrintF(stderr, "follow it: lathe jobs watch %s\n", job.id());
    }
    return kDone;
  }
  return JobsWatch(global, job.id());
}

absl::StatusOr<int> JobsWatch(const GlobalOptions& global, const std::string& id) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  LATHE_ASSIGN_OR_RETURN(const WatchResult result, WatchJob(global, *connection, id));
  if (!global.json && !result.detached) absl::PrintF("%s", Summary(result.job));
  return result.exit_code;
}

absl::StatusOr<int> JobsGet(const GlobalOptions& global, const std::string& id) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  LATHE_ASSIGN_OR_RETURN(const v1::Job job, GetJob(*connection, id));
  if (global.json) {
    PrintJson(job);
  } else {
    PrintJob(job);
  }
  return kDone;
}

absl::StatusOr<int> JobsList(const GlobalOptions& global) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  v1::ListJobsRequest request;
  v1::ListJobsResponse all;
  do {
    grpc::ClientContext context;
    connection->Prepare(context);
    v1::ListJobsResponse page;
    LATHE_RETURN_IF_ERROR(FromService(connection->jobs().ListJobs(&context, request, &page)));
    all.mutable_jobs()->MergeFrom(page.jobs());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  if (global.json) {
    PrintJson(all);
    return kDone;
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Job& job : all.jobs()) {
    rows.push_back({job.id(), StateName(job.state()), job.stage(), absl::StrCat(job.attempt()),
                    job.spec().model(), job.spec().dataset(),
                    job.error().empty() ? job.reason() : job.error()});
  }
  PrintTable({"ID", "STATE", "STAGE", "ATTEMPT", "MODEL", "DATASET", "REASON"}, rows);
  return kDone;
}

namespace {

// A call that changes a job and answers with it.
template <class Request>
absl::StatusOr<int> ChangeJob(const GlobalOptions& global, const std::string& id,
                              grpc::Status (v1::JobService::Stub::*call)(grpc::ClientContext*,
                                                                         const Request&,
                                                                         v1::Job*)) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  grpc::ClientContext context;
  connection->Prepare(context);
  Request request;
  request.set_id(id);
  v1::Job job;
  LATHE_RETURN_IF_ERROR(FromService((connection->jobs().*call)(&context, request, &job)));
  if (global.json) {
    PrintJson(job);
  } else {
    absl::PrintF("%s: %s\n", job.id(), StateName(job.state()));
  }
  return kDone;
}

}  // namespace

absl::StatusOr<int> JobsCancel(const GlobalOptions& global, const std::string& id) {
  return ChangeJob(global, id, &v1::JobService::Stub::CancelJob);
}

absl::StatusOr<int> JobsPause(const GlobalOptions& global, const std::string& id) {
  return ChangeJob(global, id, &v1::JobService::Stub::PauseJob);
}

absl::StatusOr<int> JobsResume(const GlobalOptions& global, const std::string& id) {
  return ChangeJob(global, id, &v1::JobService::Stub::ResumeJob);
}

absl::StatusOr<int> JobsLogs(const GlobalOptions& global, const std::string& id, bool follow) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  grpc::ClientContext context;
  connection->Prepare(context, absl::InfiniteDuration());
  v1::GetJobLogsRequest request;
  request.set_id(id);
  request.set_follow(follow);
  const auto reader = connection->jobs().GetJobLogs(&context, request);
  v1::GetJobLogsResponse response;
  while (reader->Read(&response)) {
    if (global.json) {
      PrintJson(response);
    } else {
      absl::PrintF("%s", response.text());
    }
  }
  LATHE_RETURN_IF_ERROR(FromService(reader->Finish()));
  return kDone;
}

}  // namespace lathe::cli
