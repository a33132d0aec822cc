#include "coordinator/store/sqlite_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/spec/field.h"
#include "coordinator/store/documents.h"

namespace lathe {
namespace {

class StoreTest : public testing::Test {
 protected:
  StoreTest() { Reopen(); }

  void Reopen() {
    store_.reset();
    auto store = SqliteStore::Open(folder_.path() / "db");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  Job Create(const std::string& id, const std::string& request = "") {
    Job job;
    job.id = JobId(id);
    job.request_id = request.empty() ? "request-" + id : request;
    job.last_sequence = 1;
    job.create_time = absl::FromUnixMicros(123456789);
    const absl::Status status = store_->CreateJob(job, Event(1, "created"));
    EXPECT_TRUE(status.ok()) << status;
    return job;
  }

  static JobEvent Event(int64_t sequence, const std::string& message) {
    return {
        .sequence = sequence, .time = absl::FromUnixMicros(5), .attempt = 1, .message = message};
  }

  static JobChange Change(Job job, JobState state, int64_t sequence) {
    job.state = state;
    job.last_sequence = sequence;
    return {job, {Event(sequence, "moved")}, {}, {}};
  }

  static Dataset MakeDataset(const std::string& name, const std::string& sha256) {
    Dataset dataset;
    dataset.name = name;
    dataset.label = "f.jsonl";
    dataset.blob.sha256 = sha256;
    return dataset;
  }

  static Model MakeModel(const std::string& name, const std::string& sha256) {
    Model model;
    model.name = name;
    model.kind = ModelKind::kAdapter;
    model.files.push_back({"p", {sha256, 2}});
    return model;
  }

  TempFolder folder_ = *TempFolder::Make("store");
  std::unique_ptr<SqliteStore> store_;
};

TEST_F(StoreTest, AJobWithAllItsFieldsSurvivesAReopen) {
  Job job = Create("job-1");
  job.state = JobState::kFailed;
  job.attempt = 3;
  job.gang = {{AssignmentId("asg-1"), WorkerId("wrk-a"), "a", 1},
              {AssignmentId("asg-2"), WorkerId("wrk-b"), "b", 0}};
  job.moves = true;
  job.rendezvous = RendezvousPoint{"127.0.0.1", 4321};
  job.failures = 2;
  job.stage = kStageTrain;
  job.reason = "r";
  job.error = "a \xff byte";
  job.failure_cause = "machine";
  job.start_time = absl::FromUnixMicros(7);
  job.end_time = absl::FromUnixMicros(8);
  job.last_sequence = 2;
  job.spec.lora.target_modules = {"q_proj"};
  job.spec.lora.rslora = true;
  job.spec.learning_rate = 1.25e-4;
  job.spec.name = "n";
  job.dataset_blob = {"ab", 3};
  job.base = {.architecture = "llama",
              .parameters = 135,
              .template_sha256 = "ef",
              .files = {{"config.json", {"cd", 4}}}};
  job.parent = {.sha256 = "gh", .files = {{"adapter_model.safetensors", {"gh", 5}}}};
  job.shard_key = "k";
  job.evaluation_before = Evaluation{.loss = 2.5, .accuracy = 0.5, .tokens = 10, .rows = 2};
  job.adapter_sha256 = {"x", "x"};
  job.trained_parameters = 12;
  job.checkpoint = {.step = 200, .files = {{"state.safetensors", {"ij", 6}}}};
  job.fallback = {.step = 100, .files = {{"state.safetensors", {"kl", 7}}}};
  job.resumed_step = 100;
  job.resume_verified = true;
  job.ledger = "00ff";
  ASSERT_TRUE(store_->Commit({{job, {Event(2, "failed")}, {}, {}}}).ok());
  Reopen();
  const auto back = store_->GetJob(JobId("job-1"));
  ASSERT_TRUE(back.ok()) << back.status();
  job.error = "a \xef\xbf\xbd byte";
  EXPECT_EQ(JobToJson(*back), JobToJson(job));
  EXPECT_EQ(back->state, JobState::kFailed);
  EXPECT_EQ(back->attempt, 3);
  ASSERT_EQ(back->gang.size(), 2U);
  EXPECT_EQ(back->gang[0].assignment, AssignmentId("asg-1"));
  EXPECT_EQ(back->gang[1].worker, WorkerId("wrk-b"));
  EXPECT_EQ(back->gang[0].worker_name, "a");
  EXPECT_EQ(back->gang[0].slots, 1);
  EXPECT_EQ(back->rendezvous->port, 4321);
  EXPECT_TRUE(back->moves);
  EXPECT_EQ(back->evaluation_before->loss, 2.5);
  EXPECT_EQ(back->checkpoint.files, job.checkpoint.files);
  EXPECT_EQ(back->fallback.step, 100);
  EXPECT_EQ(back->fallback.files, job.fallback.files);
  EXPECT_TRUE(back->resume_verified);
  for (const Field& field : JobFields())
    EXPECT_EQ(FieldText(field, back->spec), FieldText(field, job.spec)) << field.key;
  ASSERT_EQ(store_->Events(JobId("job-1"), 0, 10)->size(), 2U);
  EXPECT_EQ(store_->Events(JobId("job-1"), 1, 10)->at(0).message, "failed");
}

TEST_F(StoreTest, OneRequestIsOneJob) {
  Create("job-1", "same");
  Job other;
  other.id = JobId("job-2");
  other.request_id = "same";
  EXPECT_EQ(store_->CreateJob(other, Event(1, "x")).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(store_->GetJob(JobId("job-2")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(store_->Events(JobId("job-2"), 0, 10)->empty());
  EXPECT_EQ((*store_->FindJobByRequest("default", "same"))->id.value(), "job-1");
  EXPECT_FALSE(store_->FindJobByRequest("default", "other")->has_value());
}

TEST_F(StoreTest, StateAndEventAreStoredTogetherOrNotAtAll) {
  const Job job = Create("job-1");
  EXPECT_EQ(store_->Commit({Change(job, JobState::kRunning, 1)}).code(),
            absl::StatusCode::kAborted);
  EXPECT_EQ(store_->GetJob(job.id)->state, JobState::kQueued);
  JobChange with_model = Change(job, JobState::kRunning, 2);
  with_model.model = MakeModel("m", "bb");
  ASSERT_TRUE(store_->PutModel(MakeModel("m", "aa")).ok());
  EXPECT_EQ(store_->Commit({with_model}).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(store_->GetJob(job.id)->state, JobState::kQueued);
  EXPECT_EQ(store_->Events(job.id, 0, 10)->size(), 1U);
}

TEST_F(StoreTest, AnOlderAttemptAndAnEndedJobAreFencedOff) {
  Job job = Create("job-1");
  job.attempt = 2;
  ASSERT_TRUE(store_->Commit({Change(job, JobState::kRunning, 2)}).ok());
  Job old = job;
  old.attempt = 1;
  EXPECT_EQ(store_->Commit({Change(old, JobState::kSucceeded, 3)}).code(),
            absl::StatusCode::kAborted);
  ASSERT_TRUE(store_->Commit({Change(job, JobState::kFailed, 3)}).ok());
  EXPECT_EQ(store_->Commit({Change(job, JobState::kSucceeded, 4)}).code(),
            absl::StatusCode::kAborted);
  EXPECT_EQ(store_->GetJob(job.id)->state, JobState::kFailed);
}

TEST_F(StoreTest, AKilledProcessLosesNothingItAcknowledged) {
  store_.reset();
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const pid_t child = fork();
  if (child == 0) {
    auto store = SqliteStore::Open(folder_.path() / "db");
    Job job;
    job.id = JobId("job-1");
    job.request_id = "r";
    job.last_sequence = 1;
    const bool ok = store.ok() && (*store)->CreateJob(job, Event(1, "created")).ok() &&
                    (*store)->Commit({Change(job, JobState::kRunning, 2)}).ok();
    const char answer = ok ? 'y' : 'n';
    if (write(pipe_fds[1], &answer, 1) != 1) _exit(1);
    pause();
  }
  char answer = '?';
  ASSERT_EQ(read(pipe_fds[0], &answer, 1), 1);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(answer, 'y');
  Reopen();
  EXPECT_EQ(store_->GetJob(JobId("job-1"))->state, JobState::kRunning);
  EXPECT_EQ(store_->Events(JobId("job-1"), 0, 10)->size(), 2U);
  EXPECT_EQ(store_->UnfinishedJobs()->size(), 1U);
}

TEST_F(StoreTest, JobsAreListedNewestFirstPageByPage) {
  for (int i = 1; i <= 5; ++i) Create(absl::StrCat("job-", i));
  const auto first = store_->ListJobs(2, 0);
  ASSERT_EQ(first->jobs.size(), 2U);
  EXPECT_EQ(first->jobs[0].id.value(), "job-5");
  const auto second = store_->ListJobs(2, first->next_before);
  EXPECT_EQ(second->jobs[0].id.value(), "job-3");
  const auto last = store_->ListJobs(2, second->next_before);
  EXPECT_EQ(last->jobs.size(), 1U);
  EXPECT_EQ(last->next_before, 0);
  EXPECT_EQ(store_->CountJobs()->at(JobState::kQueued), 5);
}

TEST_F(StoreTest, TheLastAttemptOfAStepWinsAndIsSeenAgain) {
  const JobId id("job-1");
  for (int step = 1; step <= 3; ++step)
    ASSERT_TRUE(store_->PutStep({.job = id, .step = step, .attempt = 1, .payload = "old"}).ok());
  const auto before = store_->Steps(id, 0, 1, 10);
  ASSERT_EQ(before->size(), 2U);
  ASSERT_TRUE(store_->PutStep({.job = id, .step = 1, .attempt = 2, .payload = "new"}).ok());
  const auto after = store_->Steps(id, before->back().cursor, 0, 10);
  ASSERT_EQ(after->size(), 1U);
  EXPECT_EQ(after->at(0).payload, "new");
  EXPECT_EQ(store_->Steps(id, 0, 0, 10)->size(), 3U);
  EXPECT_EQ((*store_->LastStep(id))->payload, "new");
  EXPECT_FALSE(store_->LastStep(JobId("job-2"))->has_value());
  Reopen();
  EXPECT_EQ(store_->Steps(id, 0, 0, 10)->size(), 3U);
}

TEST_F(StoreTest, NamesAreUniqueAndCanBeDeleted) {
  ASSERT_TRUE(store_->PutDataset(MakeDataset("d", "aa")).ok());
  EXPECT_EQ(store_->PutDataset(MakeDataset("d", "bb")).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(store_->GetDataset("d")->label, "f.jsonl");
  ASSERT_TRUE(store_->DeleteDataset("d").ok());
  EXPECT_EQ(store_->GetDataset("d").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->DeleteDataset("d").code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(store_
                  ->PutModel({.name = "m",
                              .kind = ModelKind::kAdapter,
                              .files = {{"p", {"bb", 2}}},
                              .base_model = "b",
                              .method = "qlora",
                              .parent_model = "p"})
                  .ok());
  EXPECT_EQ(store_->GetModel("m")->method, "qlora");
  EXPECT_EQ(store_->GetModel("m")->parent_model, "p");
  EXPECT_EQ(store_->GetModel("m")->kind, ModelKind::kAdapter);
  EXPECT_EQ(store_->GetModel("m")->files[0].blob.size, 2);
  EXPECT_EQ(store_->ListModels()->size(), 1U);
  ASSERT_TRUE(store_->DeleteModel("m").ok());
  EXPECT_EQ(store_->GetModel("m").status().message(),
            "model 'm': there is none; see lathe models list");
}

TEST_F(StoreTest, ReferencedBlobsAreThoseOfEverythingThatIsLeft) {
  ASSERT_TRUE(store_->PutDataset(MakeDataset("d", "data")).ok());
  ASSERT_TRUE(store_->PutModel(MakeModel("m", "model")).ok());
  Job job = Create("job-1");
  job.shard_key = "key";
  job.dataset_blob = {"data", 1};
  JobChange change = Change(job, JobState::kRunning, 2);
  change.shards = FileTree{{"train.shard", {"shard", 3}}};
  ASSERT_TRUE(store_->Commit({change}).ok());
  EXPECT_EQ(*store_->ReferencedBlobs(), (std::set<std::string>{"data", "model", "shard"}));
  EXPECT_EQ(store_->AllShards()->at("key")[0].path, "train.shard");
  ASSERT_TRUE(store_->DeleteDataset("d").ok());
  ASSERT_TRUE(store_->DeleteModel("m").ok());
  EXPECT_EQ(*store_->ReferencedBlobs(), std::set<std::string>{"data"}) << "the job needs it";
}

TEST_F(StoreTest, ResultsAreKeptByKey) {
  ASSERT_TRUE(store_->PutResult("k", std::string("a\0b", 3)).ok());
  EXPECT_EQ(**store_->GetResult("k"), std::string("a\0b", 3));
  EXPECT_FALSE(store_->GetResult("other")->has_value());
}

TEST_F(StoreTest, ADatabaseOfANewerProgramIsRefused) {
  for (const char* file : {"lathe.db", "steps.db"}) {
    store_.reset();
    const auto set_version = [&](const char* pragma) {
      auto database = sqlite::Database::Open(folder_.path() / "db" / file, true);
      ASSERT_TRUE(database->Execute(pragma).ok());
    };
    set_version("PRAGMA user_version=99");
    const absl::Status status = SqliteStore::Open(folder_.path() / "db").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << file;
    EXPECT_THAT(std::string(status.message()),
                testing::HasSubstr("has version 99; this program knows up to 1"));
    set_version("PRAGMA user_version=1");
    Reopen();
  }
}

TEST_F(StoreTest, ACopyHoldsWhatWasThereAndIsAStoreOfItsOwn) {
  const Job job = Create("job-1");
  ASSERT_TRUE(store_->Commit({Change(job, JobState::kRunning, 2)}).ok());
  ASSERT_TRUE(store_->PutStep({.job = job.id, .step = 1, .attempt = 1, .payload = "p"}).ok());
  ASSERT_TRUE(MakeFolder(folder_.path() / "copy").ok());
  const absl::Status copied = store_->CopyTo(folder_.path() / "copy");
  ASSERT_TRUE(copied.ok()) << copied;
  struct stat info {};
  ASSERT_EQ(stat((folder_.path() / "copy" / "lathe.db").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  Create("job-2");
  const auto copy = SqliteStore::Open(folder_.path() / "copy");
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ((*copy)->GetJob(job.id)->state, JobState::kRunning);
  EXPECT_EQ((*copy)->Events(job.id, 0, 10)->size(), 2U);
  EXPECT_EQ((*(*copy)->LastStep(job.id))->payload, "p");
  EXPECT_EQ((*copy)->UnfinishedJobs()->size(), 1U) << "what came later is not in it";
}

TEST_F(StoreTest, OthersCannotReadTheDatabase) {
  struct stat info {};
  ASSERT_EQ(stat((folder_.path() / "db" / "lathe.db").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
}

}  // namespace
}  // namespace lathe
