#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/rpc/channel.h"
#include "coordinator/service/server.h"
#include "lathe/v1/admin.grpc.pb.h"
#include "lathe/v1/datasets.grpc.pb.h"
#include "lathe/v1/fleet.grpc.pb.h"
#include "lathe/v1/inference.grpc.pb.h"
#include "lathe/v1/jobs.grpc.pb.h"
#include "lathe/v1/models.grpc.pb.h"
#include "tests/coordinator/service/fake_agent.h"

namespace lathe::testing {

// A real server in this process on free ports, and a client of it.
class ServiceTest : public ::testing::Test {
 protected:
  // Stopping /metrics takes two seconds: only for tests that need it.
  explicit ServiceTest(int metrics_port = -1) : metrics_port_(metrics_port) { StartServer(); }

  void StartServer(const std::string& folder = "data") {
    ServerOptions options;
    options.data_dir = folder_.path() / folder;
    options.metrics_port = metrics_port_;
    options.coordinator = options_;
    auto server =
        Server::Start(options, clock_, [](const absl::Status& status) { ADD_FAILURE() << status; });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    client_token_ = *ReadTokenFile(options.data_dir / "client.token");
    worker_token_ = *ReadTokenFile(options.data_dir / "worker.token");
    channel_ = *MakeChannel(server_->endpoint());
    jobs_ = v1::JobService::NewStub(channel_);
    datasets_ = v1::DatasetService::NewStub(channel_);
    models_ = v1::ModelService::NewStub(channel_);
    inference_ = v1::InferenceService::NewStub(channel_);
    fleet_ = v1::FleetService::NewStub(channel_);
    admin_ = v1::AdminService::NewStub(channel_);
  }

  std::unique_ptr<FakeAgent> Agent(FakeAgent::Options options = {}) {
    auto agent = std::make_unique<FakeAgent>(server_->endpoint(), worker_token_, options);
    EXPECT_TRUE(agent->registered());
    return agent;
  }

  std::unique_ptr<grpc::ClientContext> Context() const {
    auto context = std::make_unique<grpc::ClientContext>();
    Prepare(*context, client_token_, absl::Seconds(20));
    return context;
  }

  // One unary call: Call(*jobs_, &Stub::GetJob, request, response).
  template <class Stub, class Request, class Response>
  grpc::Status Call(Stub& stub,
                    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response) const {
    return (stub.*method)(Context().get(), request, response);
  }

  grpc::Status UploadDataset(const std::string& name, const std::string& bytes,
                             const std::string& announced = "") {
    const auto context = Context();
    v1::Dataset dataset;
    const auto writer = datasets_->UploadDataset(context.get(), &dataset);
    v1::UploadDatasetRequest request;
    request.mutable_start()->set_name(name);
    request.mutable_start()->set_format("jsonl");
    request.mutable_start()->mutable_blob()->set_sha256(
        Sha256Hex(announced.empty() ? bytes : announced));
    request.mutable_start()->mutable_blob()->set_size(static_cast<int64_t>(bytes.size()));
    writer->Write(request);
    request.set_chunk(bytes);
    writer->Write(request);
    writer->WritesDone();
    return writer->Finish();
  }

  // Sends one file; the agent has to do the import.
  std::unique_ptr<grpc::ClientReaderWriter<v1::ImportModelRequest, v1::ImportModelResponse>>
  StartImport(grpc::ClientContext& context, const std::string& name,
              const std::string& bytes = "gguf") {
    auto stream = models_->ImportModel(&context);
    v1::ImportModelRequest request;
    request.mutable_start()->set_name(name);
    request.mutable_start()->set_num_files(1);
    stream->Write(request);
    request.mutable_file()->set_path("model.gguf");
    request.mutable_file()->mutable_blob()->set_sha256(Sha256Hex(bytes));
    request.mutable_file()->mutable_blob()->set_size(static_cast<int64_t>(bytes.size()));
    stream->Write(request);
    request.set_chunk(bytes);
    stream->Write(request);
    stream->WritesDone();
    return stream;
  }

  void ImportModel(FakeAgent& agent, const std::string& name) {
    const auto context = Context();
    const auto stream = StartImport(*context, name);
    agent.Do(agent.NextAssignment());
    v1::ImportModelResponse response;
    while (stream->Read(&response)) {
    }
    const grpc::Status status = stream->Finish();
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.model().name(), name);
  }

  static v1::CreateJobRequest JobRequest(const std::string& request_id, int ranks = 1) {
    v1::CreateJobRequest request;
    request.set_request_id(request_id);
    request.mutable_spec()->set_name("tuned-" + request_id);
    request.mutable_spec()->set_model("base");
    request.mutable_spec()->set_dataset("data");
    request.mutable_spec()->set_ranks(ranks);
    return request;
  }

  v1::Job CreateJob(const std::string& request_id, int ranks = 1) {
    v1::Job job;
    const grpc::Status status =
        Call(*jobs_, &v1::JobService::Stub::CreateJob, JobRequest(request_id, ranks), &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }

  v1::Job GetJob(const std::string& id) {
    v1::GetJobRequest request;
    request.set_id(id);
    v1::Job job;
    EXPECT_TRUE(Call(*jobs_, &v1::JobService::Stub::GetJob, request, &job).ok());
    return job;
  }

  struct Watched {
    std::vector<v1::JobEvent> events;
    std::vector<v1::StepStats> steps;
    v1::Job job;
    bool job_came_first = false;
  };
  // Until the job has ended.
  Watched Watch(const std::string& id, int64_t after_sequence = 0, int64_t after_step = 0) {
    Watched watched;
    const auto context = Context();
    v1::WatchJobRequest request;
    request.set_id(id);
    request.set_after_sequence(after_sequence);
    request.set_after_step(after_step);
    const auto reader = jobs_->WatchJob(context.get(), request);
    v1::WatchJobResponse response;
    bool first = true;
    while (reader->Read(&response)) {
      if (std::exchange(first, false)) watched.job_came_first = response.has_job();
      if (response.has_event()) watched.events.push_back(response.event());
      if (response.has_step()) watched.steps.push_back(response.step());
      if (response.has_job()) watched.job = response.job();
    }
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return watched;
  }

  // A base model "base" and a data set "data".
  void MakeInputs(FakeAgent& agent) {
    ImportModel(agent, "base");
    ASSERT_TRUE(UploadDataset("data", "{}\n").ok());
  }

  const int metrics_port_;
  TempFolder folder_ = *TempFolder::Make("service");
  SystemClock clock_;
  CoordinatorOptions options_;
  std::unique_ptr<Server> server_;
  Token client_token_;
  Token worker_token_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::DatasetService::Stub> datasets_;
  std::unique_ptr<v1::ModelService::Stub> models_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::FleetService::Stub> fleet_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
};

}  // namespace lathe::testing
