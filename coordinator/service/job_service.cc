#include "coordinator/service/job_service.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "common/rpc/status.h"
#include "common/spec/field.h"
#include "common/spec_proto/job_spec_proto.h"
#include "coordinator/service/convert.h"

namespace lathe {
namespace {

constexpr int kDefaultPageSize = 50;
constexpr int kMaxPageSize = 500;
constexpr int kBatch = 200;  // Events or steps read at once.
constexpr size_t kLogChunkBytes = size_t{64} << 10;

std::string SpecSha256(const JobSpec& spec) {
  Sha256 hash;
  for (const Field& field : JobFields()) {
    hash.Update(absl::StrCat(field.key, "=", FieldText(field, spec), "\n"));
  }
  return hash.FinishHex();
}

// Events and steps of a job from cursors on. Events are read before steps and sent after them: when
// the event of the job's end goes out, all its steps have.
class WatchSource final : public PullSource<v1::WatchJobResponse> {
 public:
  WatchSource(Store& store, const v1::WatchJobRequest& request)
      : store_(store),
        id_(request.id()),
        after_sequence_(request.after_sequence()),
        after_step_(request.after_step()) {}

  Pulled Pull(v1::WatchJobResponse& message, grpc::Status& status) override {
    if (queue_.empty() && !ended_) {
      if (const absl::Status filled = Fill(); !filled.ok()) {
        status = ToGrpc(filled);
        return Pulled::kEnd;
      }
    }
    if (queue_.empty()) return ended_ ? Pulled::kEnd : Pulled::kNothingYet;
    message = std::move(queue_.front());
    queue_.pop_front();
    return Pulled::kMessage;
  }

 private:
  absl::Status Fill() {
    LATHE_ASSIGN_OR_RETURN(const Job job, store_.GetJob(id_));
    LATHE_ASSIGN_OR_RETURN(const auto events, store_.Events(id_, after_sequence_, kBatch));
    if (!std::exchange(sent_job_, true)) LATHE_RETURN_IF_ERROR(PushJob());
    LATHE_RETURN_IF_ERROR(PushSteps());
    for (const JobEvent& event : events) {
      *queue_.emplace_back().mutable_event() = ToProto(event);
      after_sequence_ = event.sequence;
    }
    if (!events.empty()) LATHE_RETURN_IF_ERROR(PushJob());
    ended_ = IsFinal(job.state) && after_sequence_ >= job.last_sequence;
    return absl::OkStatus();
  }

  absl::Status PushJob() {
    LATHE_ASSIGN_OR_RETURN(*queue_.emplace_back().mutable_job(), DescribeJob(store_, id_));
    return absl::OkStatus();
  }

  // All there are: bounded by the steps of one job.
  absl::Status PushSteps() {
    while (true) {
      LATHE_ASSIGN_OR_RETURN(const auto steps,
                             store_.Steps(id_, step_cursor_, after_step_, kBatch));
      for (const StepRecord& step : steps) {
        step_cursor_ = step.cursor;
        if (!queue_.emplace_back().mutable_step()->ParseFromString(step.payload)) queue_.pop_back();
      }
      if (static_cast<int>(steps.size()) < kBatch) break;
    }
    // Only for what was there before: a later attempt starts again from step 1.
    after_step_ = 0;
    return absl::OkStatus();
  }

  Store& store_;
  const JobId id_;
  int64_t after_sequence_;
  int64_t after_step_;
  int64_t step_cursor_ = 0;
  bool sent_job_ = false;
  bool ended_ = false;
  std::deque<v1::WatchJobResponse> queue_;
};

class LogSource final : public PullSource<v1::GetJobLogsResponse> {
 public:
  LogSource(Store& store, JobLogs& logs, const v1::GetJobLogsRequest& request)
      : store_(store), logs_(logs), id_(request.id()), follow_(request.follow()) {}

  Pulled Pull(v1::GetJobLogsResponse& message, grpc::Status& status) override {
    // The state before the bytes: what is written before a job's end is then seen.
    const auto job = store_.GetJob(id_);
    auto text = job.ok() ? logs_.Read(id_, offset_, kLogChunkBytes) : job.status();
    if (!text.ok()) {
      status = ToGrpc(text.status());
      return Pulled::kEnd;
    }
    if (text->empty()) return follow_ && !IsFinal(job->state) ? Pulled::kNothingYet : Pulled::kEnd;
    offset_ += static_cast<int64_t>(text->size());
    message.set_text(*std::move(text));
    return Pulled::kMessage;
  }

 private:
  Store& store_;
  JobLogs& logs_;
  const JobId id_;
  const bool follow_;
  int64_t offset_ = 0;
};

grpc::Status Answer(const absl::StatusOr<Job>& job, v1::Job& response) {
  if (!job.ok()) return ToGrpc(job.status());
  response = ToProto(*job, nullptr);
  return grpc::Status::OK;
}

}  // namespace

absl::StatusOr<v1::Job> DescribeJob(Store& store, const JobId& id) {
  LATHE_ASSIGN_OR_RETURN(const Job job, store.GetJob(id));
  LATHE_ASSIGN_OR_RETURN(const auto step, store.LastStep(id));
  return ToProto(job, step.has_value() ? &*step : nullptr);
}

grpc::Status JobServiceImpl::CreateJob(grpc::ServerContext*, const v1::CreateJobRequest* request,
                                       v1::Job* response) {
  const auto spec = FromProto(request->spec());
  if (!spec.ok()) return ToGrpc(spec.status());
  const absl::StatusOr<Job> job =
      coordinator_.CreateJob(request->request_id(), SpecSha256(*spec), *spec);
  // The job is there; who asked for it does not get to know it.
  if (const absl::Status status = fault::Hit("rpc.created_job"); !status.ok())
    return ToGrpc(status);
  return Answer(job, *response);
}

grpc::Status JobServiceImpl::GetJob(grpc::ServerContext*, const v1::GetJobRequest* request,
                                    v1::Job* response) {
  auto job = DescribeJob(store_, JobId(request->id()));
  if (!job.ok()) return ToGrpc(job.status());
  *response = *std::move(job);
  return grpc::Status::OK;
}

grpc::Status JobServiceImpl::ListJobs(grpc::ServerContext*, const v1::ListJobsRequest* request,
                                      v1::ListJobsResponse* response) {
  int64_t before = 0;
  const bool good_token = request->page_token().empty() ||
                          (absl::SimpleAtoi(request->page_token(), &before) && before > 0);
  if (!good_token || request->page_size() < 0) {
    return {grpc::StatusCode::INVALID_ARGUMENT,
            "page_token or page_size is wrong; page_size must be in [0, 500], page_token from the "
            "answer before"};
  }
  const int size =
      request->page_size() == 0 ? kDefaultPageSize : std::min(request->page_size(), kMaxPageSize);
  const auto page = store_.ListJobs(size, before);
  if (!page.ok()) return ToGrpc(page.status());
  for (const Job& job : page->jobs) {
    auto described = DescribeJob(store_, job.id);
    if (described.ok()) *response->add_jobs() = *std::move(described);
  }
  if (page->next_before != 0) response->set_next_page_token(absl::StrCat(page->next_before));
  return grpc::Status::OK;
}

grpc::Status JobServiceImpl::CancelJob(grpc::ServerContext*, const v1::CancelJobRequest* request,
                                       v1::Job* response) {
  return Answer(coordinator_.CancelJob(JobId(request->id())), *response);
}

grpc::Status JobServiceImpl::PauseJob(grpc::ServerContext*, const v1::PauseJobRequest* request,
                                      v1::Job* response) {
  return Answer(coordinator_.PauseJob(JobId(request->id())), *response);
}

grpc::Status JobServiceImpl::ResumeJob(grpc::ServerContext*, const v1::ResumeJobRequest* request,
                                       v1::Job* response) {
  return Answer(coordinator_.ResumeJob(JobId(request->id())), *response);
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* JobServiceImpl::WatchJob(
    grpc::CallbackServerContext*, const v1::WatchJobRequest* request) {
  return PullStream<v1::WatchJobResponse>::Start(std::make_unique<WatchSource>(store_, *request),
                                                 hub_, request->id());
}

grpc::ServerWriteReactor<v1::GetJobLogsResponse>* JobServiceImpl::GetJobLogs(
    grpc::CallbackServerContext*, const v1::GetJobLogsRequest* request) {
  return PullStream<v1::GetJobLogsResponse>::Start(
      std::make_unique<LogSource>(store_, logs_, *request), hub_, request->id());
}

}  // namespace lathe
