#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <future>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/coordinator/service/service_fixture.h"

namespace lathe::testing {
namespace {

using ::testing::HasSubstr;

class JobServiceTest : public ServiceTest {};

void ExpectGapless(const std::vector<v1::JobEvent>& events, int64_t first = 1) {
  for (size_t i = 0; i < events.size(); ++i)
    EXPECT_EQ(events[i].sequence(), first + static_cast<int64_t>(i));
}

TEST_F(JobServiceTest, OneRequestIdIsOneJob) {
  const auto agent = Agent({.slots = 0});
  MakeInputs(*agent);
  const v1::Job first = CreateJob("r");
  EXPECT_EQ(first.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(first.spec().epochs(), 3) << "the resolved spec";
  EXPECT_GT(first.spec().learning_rate(), 0);
  EXPECT_EQ(CreateJob("r").id(), first.id());
  v1::CreateJobRequest other = JobRequest("r");
  other.mutable_spec()->set_epochs(4);
  v1::Job job;
  EXPECT_EQ(Call(*jobs_, &v1::JobService::Stub::CreateJob, other, &job).error_code(),
            grpc::StatusCode::ALREADY_EXISTS);
  v1::ListJobsResponse list;
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::ListJobs, v1::ListJobsRequest(), &list).ok());
  EXPECT_EQ(list.jobs_size(), 1);
}

TEST_F(JobServiceTest, ABadRequestIsRefusedInOneLine) {
  const auto agent = Agent();
  MakeInputs(*agent);
  v1::Job job;
  const auto create = [&](const v1::CreateJobRequest& request) {
    return Call(*jobs_, &v1::JobService::Stub::CreateJob, request, &job);
  };
  v1::CreateJobRequest request = JobRequest("r");
  request.mutable_spec()->mutable_lora()->set_rank(0);
  EXPECT_EQ(create(request).error_message(), "lora.rank is 0; must be in [1, 256]");
  request = JobRequest("r");
  request.mutable_spec()->set_model("other");
  EXPECT_EQ(create(request).error_code(), grpc::StatusCode::NOT_FOUND);
  request = JobRequest("r");
  request.mutable_spec()->set_name("base");
  EXPECT_EQ(create(request).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  request = JobRequest("");
  EXPECT_EQ(create(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(JobServiceTest, ATwoRankJobRunsToItsModel) {
  const auto one = Agent({.name = "worker-1"});
  const auto two = Agent({.name = "worker-2"});
  // The errand goes to the first of two equal workers.
  MakeInputs(*one);
  const v1::Job job = CreateJob("r", 2);
  auto watch = std::async([&] { return Watch(job.id()); });
  const pb::Assignment prepare = one->NextAssignment();
  ASSERT_TRUE(prepare.task().has_prepare());
  EXPECT_EQ(prepare.slots(), 1);
  EXPECT_EQ(one->Download(prepare.inputs().at("data").files(0).blob()), "{}\n");
  one->Do(prepare);
  const pb::Assignment rank0 = one->NextAssignment();
  const pb::Assignment rank1 = two->NextAssignment();
  EXPECT_EQ(rank0.task().train().rank(), 0);
  EXPECT_EQ(rank1.task().train().world_size(), 2);
  EXPECT_EQ(rank1.inputs().at("shards").files_size(), 2);
  one->Rendezvous(rank0, 4321);
  EXPECT_EQ(two->NextRendezvous().port(), 4321);
  one->Evaluate(rank0, true, 3.5);
  two->Do(rank1);
  one->Evaluate(rank0, false, 1.5);
  one->Do(rank0);
  const Watched watched = watch.get();
  EXPECT_TRUE(watched.job_came_first);
  ExpectGapless(watched.events);
  ASSERT_EQ(watched.steps.size(), 3U);
  EXPECT_EQ(watched.steps.back().step(), 3);
  EXPECT_EQ(watched.job.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(watched.job.result_model(), "tuned-r");
  EXPECT_EQ(watched.job.evaluation_before().loss(), 3.5);
  EXPECT_EQ(watched.job.evaluation_after().loss(), 1.5);
  EXPECT_EQ(watched.job.last_step().step(), 3);
  EXPECT_EQ(watched.job.adapter_sha256_size(), 2);
  EXPECT_EQ(watched.job.trained_parameters(), 12);
  EXPECT_EQ(watched.job.base_parameters(), 1000);
  v1::GetModelRequest request;
  request.set_name("tuned-r");
  v1::Model model;
  ASSERT_TRUE(Call(*models_, &v1::ModelService::Stub::GetModel, request, &model).ok());
  EXPECT_EQ(model.kind(), v1::MODEL_KIND_ADAPTER);
  EXPECT_EQ(model.base_model(), "base");
  EXPECT_EQ(model.architecture(), "llama");
  EXPECT_EQ(model.parameters(), 12);
  EXPECT_EQ(model.parity().positions(), 16);
  EXPECT_EQ(model.template_sha256(), "t");
  EXPECT_EQ(model.files().files(0).path(), "adapter_model.safetensors");
}

TEST_F(JobServiceTest, AJobGoesOnFromAnAdapterOverTheSameBase) {
  const auto agent = Agent();
  MakeInputs(*agent);
  ImportModel(*agent, "other");
  v1::CreateJobRequest first = JobRequest("first");
  first.mutable_spec()->mutable_lora()->set_rank(4);
  v1::Job job;
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::CreateJob, first, &job).ok());
  agent->Do(agent->NextAssignment());
  agent->Do(agent->NextAssignment());
  const v1::Job parent = Watch(job.id()).job;
  ASSERT_EQ(parent.state(), v1::JOB_STATE_SUCCEEDED) << parent.error();

  const auto refusal = [&](const std::function<void(v1::JobSpec&)>& change) {
    v1::CreateJobRequest request = JobRequest("refused");
    request.mutable_spec()->set_parent_model("tuned-first");
    change(*request.mutable_spec());
    return Call(*jobs_, &v1::JobService::Stub::CreateJob, request, &job).error_message();
  };
  EXPECT_EQ(refusal([](v1::JobSpec& spec) { spec.mutable_lora()->set_rank(8); }),
            "lora.rank is 8; parent_model 'tuned-first' has 4, which a job that goes on from it "
            "takes over: drop the setting");
  EXPECT_THAT(refusal([](v1::JobSpec& spec) { spec.set_parent_model("nobody"); }),
              HasSubstr("parent_model: model 'nobody'"));
  EXPECT_THAT(refusal([](v1::JobSpec& spec) { spec.set_parent_model("base"); }),
              HasSubstr("parent_model is 'base', a whole model; must be an adapter"));
  EXPECT_EQ(refusal([](v1::JobSpec& spec) { spec.set_model("other"); }),
            "parent_model is 'tuned-first', an adapter over 'base'; model is 'other', must be the "
            "same");
  EXPECT_THAT(refusal([](v1::JobSpec& spec) { spec.set_method("full"); }),
              HasSubstr("method full starts from 'model' alone"));

  v1::CreateJobRequest second = JobRequest("second");
  second.mutable_spec()->set_parent_model("tuned-first");
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::CreateJob, second, &job).ok());
  EXPECT_EQ(job.spec().lora().rank(), 4);
  v1::DeleteModelRequest deletion;
  deletion.set_name("tuned-first");
  v1::DeleteModelResponse deleted;
  EXPECT_EQ(Call(*models_, &v1::ModelService::Stub::DeleteModel, deletion, &deleted).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  const pb::Assignment train = agent->NextAssignment();  // The rows are prepared already.
  const v1::FileRef& file = train.inputs().at("parent").files(0);
  EXPECT_EQ(file.path(), "adapter_model.safetensors");
  EXPECT_EQ(job.parent_sha256(), file.blob().sha256());
  agent->Do(train);
  ASSERT_EQ(Watch(job.id()).job.state(), v1::JOB_STATE_SUCCEEDED);
  v1::GetModelRequest request;
  request.set_name("tuned-second");
  v1::Model model;
  ASSERT_TRUE(Call(*models_, &v1::ModelService::Stub::GetModel, request, &model).ok());
  EXPECT_EQ(model.parent_model(), "tuned-first");
  EXPECT_EQ(model.method(), "sft");
  EXPECT_EQ(model.base_model(), "base");
}

TEST_F(JobServiceTest, FullTuningRefusesLoraSettings) {
  const auto agent = Agent();
  MakeInputs(*agent);
  v1::CreateJobRequest request = JobRequest("r");
  request.mutable_spec()->set_method("full");
  request.mutable_spec()->mutable_lora()->set_rank(8);
  v1::Job job;
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, &job).error_message(),
              HasSubstr("lora.rank is 8; method full"));
  request.mutable_spec()->clear_lora();
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, &job).ok());
  EXPECT_EQ(job.spec().learning_rate(), 2e-5);
}

TEST_F(JobServiceTest, AWatchGoesOnAfterItsCursorsWithoutGapOrRepeat) {
  const auto agent = Agent();
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  agent->Do(agent->NextAssignment());
  agent->Do(agent->NextAssignment());
  const Watched all = Watch(job.id());
  const Watched rest = Watch(job.id(), 2, 2);
  ASSERT_EQ(rest.events.size(), all.events.size() - 2);
  ExpectGapless(rest.events, 3);
  ASSERT_EQ(rest.steps.size(), 1U);
  EXPECT_EQ(rest.steps[0].step(), 3);
}

TEST_F(JobServiceTest, AKilledRankEndsTheAttemptAndTheNextOneSucceeds) {
  const auto agent = Agent({.slots = 2});
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r", 2);
  agent->Do(agent->NextAssignment());
  const pb::Assignment rank0 = agent->NextAssignment();
  const pb::Assignment rank1 = agent->NextAssignment();
  agent->Step(rank0, 1);
  agent->Fail(rank0, "peer_lost", "rank 0 on worker-1: lost a peer");
  EXPECT_EQ(agent->NextCancel(), rank1.id());
  agent->Fail(rank1, "machine", "rank 1 on worker-1: killed by signal 9 (Killed)");
  const pb::Assignment again = agent->NextAssignment();
  EXPECT_EQ(again.attempt(), 2);
  EXPECT_EQ(agent->Upload(rank0, "late bytes").error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  agent->Step(rank0, 2);  // Of the attempt that is over: counts for nothing.
  agent->Do(again);
  agent->Do(agent->NextAssignment());
  const Watched watched = Watch(job.id());
  EXPECT_EQ(watched.job.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(watched.job.attempt(), 2);
  ASSERT_EQ(watched.steps.size(), 3U);
  for (const v1::StepStats& step : watched.steps) EXPECT_EQ(step.attempt(), 2);
  const auto named =
      std::find_if(watched.events.begin(), watched.events.end(), [](const v1::JobEvent& event) {
        return absl::StrContains(event.message(),
                                 "rank 1 on worker-1: killed by signal 9 (Killed); attempt 1 ends");
      });
  EXPECT_NE(named, watched.events.end());
}

TEST_F(JobServiceTest, ACancelEndsTheProcessesAndThenTheJob) {
  const auto agent = Agent();
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  const pb::Assignment prepare = agent->NextAssignment();
  v1::CancelJobRequest request;
  request.set_id(job.id());
  v1::Job cancelling;
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::CancelJob, request, &cancelling).ok());
  EXPECT_EQ(cancelling.state(), v1::JOB_STATE_CANCELLING);
  EXPECT_EQ(agent->NextCancel(), prepare.id());
  agent->Fail(prepare, "cancelled", "cancelled");
  EXPECT_EQ(Watch(job.id()).job.state(), v1::JOB_STATE_CANCELLED);
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::CancelJob, request, &cancelling).ok());
  EXPECT_EQ(cancelling.state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(JobServiceTest, APauseEndsTheProcessesAndAResumeStartsThemAgain) {
  const auto agent = Agent();
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  const pb::Assignment prepare = agent->NextAssignment();
  v1::PauseJobRequest pause;
  pause.set_id(job.id());
  v1::ResumeJobRequest resume;
  resume.set_id(job.id());
  v1::Job changed;
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::PauseJob, pause, &changed).ok());
  EXPECT_EQ(changed.state(), v1::JOB_STATE_PAUSING);
  EXPECT_EQ(Call(*jobs_, &v1::JobService::Stub::ResumeJob, resume, &changed).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(agent->NextCancel(), prepare.id());
  agent->Fail(prepare, "cancelled", "cancelled");
  while (changed.state() != v1::JOB_STATE_PAUSED) {
    ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::PauseJob, pause, &changed).ok());
  }
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::ResumeJob, resume, &changed).ok());
  EXPECT_EQ(changed.state(), v1::JOB_STATE_RUNNING);
  const pb::Assignment again = agent->NextAssignment();
  EXPECT_EQ(again.attempt(), 2);
  agent->Fail(again, "user", "enough");
  EXPECT_EQ(Watch(job.id()).job.state(), v1::JOB_STATE_FAILED);
  const grpc::Status ended = Call(*jobs_, &v1::JobService::Stub::PauseJob, pause, &changed);
  EXPECT_EQ(ended.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(ended.error_message(), HasSubstr("is FAILED; only a job that has not ended"));
  pause.set_id("job-nobody");
  EXPECT_EQ(Call(*jobs_, &v1::JobService::Stub::PauseJob, pause, &changed).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(JobServiceTest, AUserErrorFailsTheJobAtOnce) {
  const auto agent = Agent();
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  agent->Fail(agent->NextAssignment(), "user", "prepare on worker-1: no row has a trained token");
  const Watched watched = Watch(job.id());
  EXPECT_EQ(watched.job.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(watched.job.error(), "prepare on worker-1: no row has a trained token");
  EXPECT_EQ(watched.job.failure_cause(), "user");
}

TEST_F(JobServiceTest, AnEndWhoseFilesAreMissingIsNotASuccess) {
  const auto agent = Agent();
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  agent->Do(agent->NextAssignment());
  const pb::Assignment train = agent->NextAssignment();
  pb::Done done;
  done.set_adapter_sha256("x");
  done.mutable_parity()->set_positions(1);
  agent->FinishWithout(train, done, "adapter_model.safetensors", "never stored");
  EXPECT_EQ(agent->NextAssignment().attempt(), 2);
  EXPECT_THAT(GetJob(job.id()).failure_cause(), "machine");
}

TEST_F(JobServiceTest, LogsAreFollowedToTheEnd) {
  const auto agent = Agent();
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  const pb::Assignment prepare = agent->NextAssignment();
  agent->Log(prepare, "first\nsecond\n");
  v1::GetJobLogsRequest request;
  request.set_id(job.id());
  request.set_follow(true);
  const auto context = Context();
  const auto reader = jobs_->GetJobLogs(context.get(), request);
  v1::GetJobLogsResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.text(), "train rank 0 on worker-1: first\ntrain rank 0 on worker-1: second\n");
  agent->Log(prepare, "third");
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.text(), "train rank 0 on worker-1: third\n");
  agent->Fail(prepare, "user", "bad");
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(JobServiceTest, JobsAreListedPageByPage) {
  const auto agent = Agent({.slots = 0});
  MakeInputs(*agent);
  for (int i = 0; i < 3; ++i) CreateJob(absl::StrCat("r", i));
  v1::ListJobsRequest request;
  request.set_page_size(2);
  v1::ListJobsResponse page;
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::ListJobs, request, &page).ok());
  EXPECT_EQ(page.jobs(0).request_id(), "r2");
  request.set_page_token(page.next_page_token());
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::ListJobs, request, &page).ok());
  EXPECT_EQ(page.next_page_token(), "");
  request.set_page_token("nonsense");
  EXPECT_EQ(Call(*jobs_, &v1::JobService::Stub::ListJobs, request, &page).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(JobServiceTest, ATrainingRunsOnThroughARestartOfTheCoordinator) {
  auto agent = Agent();
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  agent->Do(agent->NextAssignment());
  const pb::Assignment train = agent->NextAssignment();
  agent->Step(train, 1);
  agent->Sync();
  server_.reset();
  EXPECT_FALSE(agent->End().ok());
  StartServer();
  agent = Agent({.running = {train.id()}});
  agent->Step(train, 1);  // Sent again: its answer was lost.
  agent->Step(train, 2);
  agent->Do(train);
  const Watched watched = Watch(job.id());
  EXPECT_EQ(watched.job.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(watched.job.attempt(), 1);
  ExpectGapless(watched.events);
}

TEST_F(JobServiceTest, AProcessThatARestartOfTheCoordinatorLostFromSightIsStartedAnew) {
  options_.core.missing_grace = absl::Milliseconds(50);
  server_.reset();
  StartServer();
  auto agent = Agent();
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  agent->Do(agent->NextAssignment());
  agent->NextAssignment();
  server_.reset();
  EXPECT_FALSE(agent->End().ok());
  StartServer();
  agent = Agent();
  const pb::Assignment again = agent->NextAssignment();
  EXPECT_EQ(again.attempt(), 2);
  agent->Do(again);
  const Watched watched = Watch(job.id());
  EXPECT_EQ(watched.job.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(watched.job.failure_cause(), "");
  ExpectGapless(watched.events);
}

}  // namespace
}  // namespace lathe::testing
