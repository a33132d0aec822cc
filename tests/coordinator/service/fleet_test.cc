#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "absl/strings/str_cat.h"
#include "tests/coordinator/service/service_fixture.h"

// Workers, errands and chats.

namespace lathe::testing {
namespace {

using ::testing::HasSubstr;

class FleetTest : public ServiceTest {
 protected:
  void Restart() {
    server_.reset();
    StartServer();
  }

  v1::ListWorkersResponse Workers() {
    v1::ListWorkersResponse response;
    EXPECT_TRUE(
        Call(*fleet_, &v1::FleetService::Stub::ListWorkers, v1::ListWorkersRequest(), &response)
            .ok());
    return response;
  }

  static v1::ChatRequest ChatWith(const std::string& model) {
    v1::ChatRequest request;
    request.set_model(model);
    request.add_messages()->set_role("user");
    request.mutable_messages(0)->set_content("hello");
    return request;
  }
};

TEST_F(FleetTest, AWorkerIsListedAndMayLeave) {
  const auto agent = Agent({.slots = 3});
  v1::ListWorkersResponse workers = Workers();
  ASSERT_EQ(workers.workers_size(), 1);
  EXPECT_EQ(workers.workers(0).state(), "alive");
  EXPECT_EQ(workers.workers(0).free_slots(), 3);
  agent->Leave();
  EXPECT_TRUE(agent->End().ok());
  // The end of the stream reaches the client before the server's bookkeeping.
  for (int i = 0; i < 1000 && Workers().workers(0).state() == "alive"; ++i) {
  }
  EXPECT_EQ(Workers().workers(0).state(), "left");
}

TEST_F(FleetTest, ASilentWorkerIsLostAndItsJobGoesOnElsewhere) {
  options_.core.lease = absl::Milliseconds(500);
  Restart();
  auto steady = Agent({.name = "worker-1"});
  MakeInputs(*steady);
  const auto silent = Agent({.name = "a-first", .heartbeats = false});
  const v1::Job job = CreateJob("r");
  ASSERT_TRUE(silent->NextAssignment().task().has_prepare());
  const pb::Assignment again = steady->NextAssignment();
  EXPECT_EQ(again.attempt(), 2);
  EXPECT_EQ(GetJob(job.id()).failure_cause(), "machine");
  steady->Do(again);
  steady->Do(steady->NextAssignment());
  const Watched watched = Watch(job.id());
  EXPECT_EQ(watched.job.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(watched.events[2].message(), HasSubstr("a-first lost: no heartbeat for 500ms"));
  EXPECT_EQ(Workers().workers(0).state(), "lost");
}

TEST_F(FleetTest, OfATrainingThatStandsStillTheReportIsInTheLogOfItsJob) {
  options_.core.hang = {.step = absl::Milliseconds(100), .slow = absl::Milliseconds(100)};
  Restart();
  auto agent = Agent({.slots = 2});
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  agent->Do(agent->NextAssignment());
  agent->NextAssignment();  // A training that says nothing.
  const pb::Assignment again = agent->NextAssignment();
  EXPECT_EQ(again.attempt(), 2);
  v1::GetJobLogsRequest request;
  request.set_id(job.id());
  const auto context = Context();
  const auto reader = jobs_->GetJobLogs(context.get(), request);
  std::string log;
  for (v1::GetJobLogsResponse response; reader->Read(&response);) log += response.text();
  EXPECT_THAT(log, HasSubstr("coordinator: {"));
  EXPECT_THAT(log, HasSubstr("\"rank_to_blame\": 0"));
}

TEST_F(FleetTest, AReconnectKeepsTheWorkAndRepeatedReportsCountOnce) {
  auto agent = Agent();
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  agent->Do(agent->NextAssignment());
  const pb::Assignment train = agent->NextAssignment();
  agent->Step(train, 1);
  agent->Step(train, 2);
  agent = Agent({.running = {train.id()}});
  for (int step = 1; step <= 2; ++step) agent->Step(train, step);
  agent->Sync();
  EXPECT_THAT(server_->Scrape(), HasSubstr(absl::StrCat("lathe_job_tokens_total{job_id=\"",
                                                        job.id(), "\",kind=\"trained\"} 203")));
  agent->Do(train);
  const Watched watched = Watch(job.id());
  EXPECT_EQ(watched.job.attempt(), 1);
  EXPECT_EQ(watched.steps.size(), 3U);
}

TEST_F(FleetTest, TheTwoNewestCheckpointsAreKeptAndTheirBytesGoWhenNobodyNeedsThem) {
  const auto agent = Agent();
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  agent->Do(agent->NextAssignment());
  const pb::Assignment train = agent->NextAssignment();
  const auto held = [&] {
    agent->Sync();
    const std::string page = server_->Scrape();
    const size_t at = page.find("\nlathe_blob_bytes ") + 18;
    return std::stoll(page.substr(at, page.find('\n', at) - at));
  };
  const int64_t before = held();
  agent->Checkpoint(train, 10, "never brought");
  agent->Sync();
  EXPECT_EQ(GetJob(job.id()).checkpoint_step(), 0) << "its bytes are not there";
  const auto save = [&](int64_t step, const std::string& bytes) {
    ASSERT_TRUE(agent->Upload(train, bytes).ok());
    agent->Checkpoint(train, step, bytes);
  };
  save(20, "twenty");
  EXPECT_EQ(held(), before + 6);
  EXPECT_EQ(GetJob(job.id()).checkpoint_step(), 20);
  save(30, "thirty!");
  EXPECT_EQ(held(), before + 6 + 7) << "the one before is kept as well";
  save(35, "thirty-five");
  EXPECT_EQ(held(), before + 7 + 11) << "the one before that is gone";
  save(25, "too late");
  EXPECT_EQ(held(), before + 7 + 11) << "one that is older is not kept";
  EXPECT_EQ(GetJob(job.id()).checkpoint_step(), 35);
  agent->Fail(train, "machine", "rank 0 on worker-1: killed");
  const pb::Assignment again = agent->NextAssignment();
  EXPECT_EQ(agent->Download(again.inputs().at("resume").files(0).blob()), "thirty-five");
  agent->Fail(again, "checkpoint", "rank 0 on worker-1: checkpoint: is cut");
  const pb::Assignment earlier = agent->NextAssignment();
  EXPECT_EQ(agent->Download(earlier.inputs().at("resume").files(0).blob()), "thirty!");
  agent->Fail(earlier, "checkpoint", "rank 0 on worker-1: checkpoint: is cut");
  const pb::Assignment anew = agent->NextAssignment();
  EXPECT_FALSE(anew.inputs().contains("resume"));
  EXPECT_EQ(held(), before);
  agent->Checkpoint(train, 40, "of an attempt that is over");
  agent->Do(anew);
  EXPECT_EQ(Watch(job.id()).job.state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(FleetTest, AnAgentWithAnotherProtocolOrABadNameIsRefused) {
  FakeAgent bad(server_->endpoint(), worker_token_, {.name = "../x"});
  EXPECT_EQ(bad.End().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto agent = Agent();
  FakeAgent twin(server_->endpoint(), worker_token_, {.name = "worker-1", .slots = 5});
  // The same worker again takes over; the old connection ends.
  EXPECT_EQ(agent->End().error_code(), grpc::StatusCode::ABORTED);
}

TEST_F(FleetTest, AnImportTellsItsProgressAndNeedsAWorker) {
  auto context = Context();
  auto stream = StartImport(*context, "base");
  v1::ImportModelResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  const auto agent = Agent();
  context = Context();
  stream = StartImport(*context, "base");
  const pb::Assignment import = agent->NextAssignment();
  EXPECT_EQ(import.slots(), 0);
  EXPECT_EQ(agent->Download(import.inputs().at("source").files(0).blob()), "gguf");
  agent->Progress(import, "reads 30 of 272 tensors");
  agent->Do(import);
  std::vector<std::string> progress;
  while (stream->Read(&response))
    if (!response.progress().empty()) progress.push_back(response.progress());
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(progress, ::testing::Contains("reads 30 of 272 tensors"));
  EXPECT_EQ(response.model().parameters(), 1000);
  // The source is not kept: the canonical folder is what counts.
  EXPECT_THAT(server_->Scrape(), HasSubstr("lathe_blob_bytes 9\n"));
}

TEST_F(FleetTest, AFailedImportNamesWhatIsWrongWithTheFile) {
  const auto agent = Agent();
  const auto context = Context();
  const auto stream = StartImport(*context, "base");
  agent->Fail(agent->NextAssignment(), "user", "import on worker-1: model.gguf: is cut");
  v1::ImportModelResponse response;
  while (stream->Read(&response)) {
  }
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "import on worker-1: model.gguf: is cut");
}

TEST_F(FleetTest, ACheckIsComputedOnce) {
  const auto agent = Agent();
  MakeInputs(*agent);
  v1::CheckDatasetRequest request;
  request.set_name("data");
  request.set_model("base");
  auto first = std::async([&] {
    v1::DatasetReport report;
    EXPECT_TRUE(Call(*datasets_, &v1::DatasetService::Stub::CheckDataset, request, &report).ok());
    return report;
  });
  const pb::Assignment check = agent->NextAssignment();
  EXPECT_EQ(check.task().check().max_length(), 2048);
  agent->Do(check);
  EXPECT_EQ(first.get().rows(), 7);
  v1::DatasetReport again;
  ASSERT_TRUE(Call(*datasets_, &v1::DatasetService::Stub::CheckDataset, request, &again).ok());
  EXPECT_EQ(again.rows(), 7);
}

TEST_F(FleetTest, AWorkerThatLeavesEndsItsErrand) {
  const auto agent = Agent();
  MakeInputs(*agent);
  v1::PreviewDatasetRequest request;
  request.set_name("data");
  request.set_model("base");
  auto preview = std::async([&] {
    v1::DatasetPreview response;
    return Call(*datasets_, &v1::DatasetService::Stub::PreviewDataset, request, &response);
  });
  agent->NextAssignment();
  agent->Leave();
  EXPECT_EQ(preview.get().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(FleetTest, WrongBytesUnderANameAreRefused) {
  EXPECT_EQ(UploadDataset("data", "abc", "other").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(UploadDataset("data", "abc").ok());
  EXPECT_TRUE(UploadDataset("data", "abc").ok()) << "the same bytes again";
  EXPECT_EQ(UploadDataset("data", "xyz").error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(UploadDataset("../data", "abc").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(FleetTest, WhatIsInUseCannotBeDeleted) {
  const auto agent = Agent({.slots = 0});
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  v1::DeleteDatasetRequest dataset;
  dataset.set_name("data");
  v1::DeleteDatasetResponse ignored;
  EXPECT_EQ(
      Call(*datasets_, &v1::DatasetService::Stub::DeleteDataset, dataset, &ignored).error_code(),
      grpc::StatusCode::FAILED_PRECONDITION);
  v1::CancelJobRequest cancel;
  cancel.set_id(job.id());
  v1::Job cancelled;
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::CancelJob, cancel, &cancelled).ok());
  EXPECT_TRUE(Call(*datasets_, &v1::DatasetService::Stub::DeleteDataset, dataset, &ignored).ok());
  v1::DeleteModelRequest model;
  model.set_name("base");
  v1::DeleteModelResponse gone;
  EXPECT_TRUE(Call(*models_, &v1::ModelService::Stub::DeleteModel, model, &gone).ok());
  EXPECT_THAT(server_->Scrape(), HasSubstr("lathe_blob_bytes 0\n"));
}

TEST_F(FleetTest, AFileOfAModelIsDownloadedFromAnOffset) {
  const auto agent = Agent();
  MakeInputs(*agent);
  v1::DownloadModelFileRequest request;
  request.set_name("base");
  request.set_path("model.safetensors");
  request.set_offset(2);
  const auto context = Context();
  const auto reader = models_->DownloadModelFile(context.get(), request);
  std::string bytes;
  v1::DownloadModelFileResponse response;
  while (reader->Read(&response)) bytes += response.chunk();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, "ights");
}

TEST_F(FleetTest, AChatStreamsItsTextAndTheModelStaysLoaded) {
  const auto agent = Agent();
  MakeInputs(*agent);
  const auto context = Context();
  const auto reader = inference_->Chat(context.get(), ChatWith("base"));
  const pb::Assignment serve = agent->NextAssignment();
  ASSERT_TRUE(serve.task().has_serve());
  EXPECT_EQ(serve.slots(), 0);
  const pb::ChatStart start = agent->NextChat();
  EXPECT_EQ(start.assignment_id(), serve.id());
  EXPECT_EQ(start.request().messages(0).content(), "hello");
  EXPECT_TRUE(agent->Say(start.chat_id(), {"Par", "is", "."}, true).ok());
  std::string text;
  v1::ChatResponse response;
  while (reader->Read(&response)) text += response.text();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, "Paris.");
  EXPECT_EQ(response.finish_reason(), "stop");
  const auto second = Context();
  const auto again = inference_->Chat(second.get(), ChatWith("base"));
  EXPECT_EQ(agent->NextChat().assignment_id(), serve.id());
}

TEST_F(FleetTest, AnAdapterIsServedOverABaseThatIsHeldAsInItsTraining) {
  const auto agent = Agent();
  MakeInputs(*agent);
  v1::CreateJobRequest request = JobRequest("r");
  request.mutable_spec()->set_method("qlora");
  request.mutable_spec()->set_base_dtype("bf16");
  v1::Job job;
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, &job).ok());
  agent->Do(agent->NextAssignment());
  agent->Do(agent->NextAssignment());
  ASSERT_EQ(Watch(job.id()).job.state(), v1::JOB_STATE_SUCCEEDED);
  const auto base_context = Context();
  const auto base = inference_->Chat(base_context.get(), ChatWith("base"));
  const pb::Assignment plain = agent->NextAssignment();
  EXPECT_EQ(plain.task().serve().base_storage(), "f32");
  EXPECT_EQ(agent->NextChat().assignment_id(), plain.id());
  const auto tuned_context = Context();
  const auto tuned = inference_->Chat(tuned_context.get(), ChatWith("tuned-r"));
  const pb::Assignment narrow = agent->NextAssignment();
  EXPECT_EQ(narrow.task().serve().base_storage(), "nf4+bf16");
  EXPECT_EQ(agent->NextChat().assignment_id(), narrow.id());
}

TEST_F(FleetTest, AClientThatGoesAwayCancelsItsChat) {
  const auto agent = Agent();
  MakeInputs(*agent);
  const auto context = Context();
  const auto reader = inference_->Chat(context.get(), ChatWith("base"));
  const pb::ChatStart start = agent->NextChat();
  context->TryCancel();
  EXPECT_EQ(agent->NextChatCancel(), start.chat_id());
  EXPECT_EQ(agent->Say(start.chat_id(), {"late"}, true).error_code(), grpc::StatusCode::ABORTED);
  EXPECT_FALSE(reader->Finish().ok());
}

TEST_F(FleetTest, AnIdleModelIsUnloadedAndADeadOneEndsItsChats) {
  options_.chat_idle_timeout = absl::Milliseconds(50);
  Restart();
  const auto agent = Agent();
  MakeInputs(*agent);
  const auto context = Context();
  const auto reader = inference_->Chat(context.get(), ChatWith("base"));
  const pb::Assignment serve = agent->NextAssignment();
  agent->Fail(serve, "machine", "serve on worker-1: killed by signal 9");
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("killed by signal 9"));
  const auto second = Context();
  const auto again = inference_->Chat(second.get(), ChatWith("base"));
  const pb::Assignment fresh = agent->NextAssignment();
  agent->NextChat();
  const pb::ChatStart start = agent->NextChat();
  agent->Say(start.chat_id(), {"x"}, true);
  EXPECT_EQ(agent->NextCancel(), fresh.id());
}

TEST_F(FleetTest, ABadChatIsRefused) {
  v1::ChatRequest request = ChatWith("none");
  const auto finish = [&] {
    const auto context = Context();
    return inference_->Chat(context.get(), request)->Finish();
  };
  EXPECT_EQ(finish().error_code(), grpc::StatusCode::NOT_FOUND);
  request.set_temperature(6);
  EXPECT_EQ(finish().error_message(), "temperature is 6; must be in [0, 5]");
  request.clear_messages();
  EXPECT_EQ(finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace lathe::testing
