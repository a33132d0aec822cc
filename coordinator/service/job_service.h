#pragma once

#include "coordinator/service/coordinator.h"
#include "coordinator/service/hub.h"
#include "coordinator/service/job_logs.h"
#include "coordinator/store/store.h"
#include "lathe/v1/jobs.grpc.pb.h"

namespace lathe {

// lathe.v1.JobService. Thread-safe; what it refers to outlives the server.
class JobServiceImpl final
    : public v1::JobService::WithCallbackMethod_WatchJob<
          v1::JobService::WithCallbackMethod_GetJobLogs<v1::JobService::Service>> {
 public:
  JobServiceImpl(Coordinator& coordinator, Store& store, JobLogs& logs, Hub& hub)
      : coordinator_(coordinator), store_(store), logs_(logs), hub_(hub) {}

  grpc::Status CreateJob(grpc::ServerContext* context, const v1::CreateJobRequest* request,
                         v1::Job* response) override;
  grpc::Status GetJob(grpc::ServerContext* context, const v1::GetJobRequest* request,
                      v1::Job* response) override;
  grpc::Status ListJobs(grpc::ServerContext* context, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override;
  grpc::Status CancelJob(grpc::ServerContext* context, const v1::CancelJobRequest* request,
                         v1::Job* response) override;
  grpc::Status PauseJob(grpc::ServerContext* context, const v1::PauseJobRequest* request,
                        v1::Job* response) override;
  grpc::Status ResumeJob(grpc::ServerContext* context, const v1::ResumeJobRequest* request,
                         v1::Job* response) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(
      grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) override;
  grpc::ServerWriteReactor<v1::GetJobLogsResponse>* GetJobLogs(
      grpc::CallbackServerContext* context, const v1::GetJobLogsRequest* request) override;

 private:
  Coordinator& coordinator_;
  Store& store_;
  JobLogs& logs_;
  Hub& hub_;
};

// The job as clients see it, with its last step.
absl::StatusOr<v1::Job> DescribeJob(Store& store, const JobId& id);

}  // namespace lathe
