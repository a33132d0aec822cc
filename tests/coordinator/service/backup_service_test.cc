#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "coordinator/backup/restore.h"
#include "tests/coordinator/service/service_fixture.h"

namespace lathe::testing {
namespace {

namespace fs = std::filesystem;

class BackupServiceTest : public ServiceTest {
 protected:
  grpc::Status Backup(const std::string& name, v1::Backup* backup) {
    const auto context = Context();
    v1::CreateBackupRequest request;
    request.set_name(name);
    const auto reader = admin_->CreateBackup(context.get(), request);
    v1::CreateBackupResponse response;
    while (reader->Read(&response)) {
      if (response.has_backup()) *backup = response.backup();
    }
    return reader->Finish();
  }

  // Everything that a watcher of the job would be sent, from the store.
  void ExpectGaplessEvents(const JobId& id) {
    const auto job = server_->store().GetJob(id);
    ASSERT_TRUE(job.ok()) << job.status();
    const auto events = server_->store().Events(id, 0, 1000);
    ASSERT_EQ(static_cast<int64_t>(events->size()), job->last_sequence) << id.value();
    for (size_t i = 0; i < events->size(); ++i) {
      EXPECT_EQ(events->at(i).sequence, static_cast<int64_t>(i) + 1) << id.value();
    }
  }
};

TEST_F(BackupServiceTest, ABackupUnderSubmitsStartsWithEveryJobAcknowledgedBeforeIt) {
  const auto agent = Agent();
  MakeInputs(*agent);
  Mutex mutex;
  std::vector<std::string> acknowledged;
  std::atomic<int> count = 0;
  std::jthread submits([&](const std::stop_token& stop) {
    for (int i = 0; i < 500 && !stop.stop_requested(); ++i) {
      const std::string id = CreateJob(absl::StrCat("r", i)).id();
      const MutexLock lock(mutex);
      acknowledged.push_back(id);
      ++count;
      count.notify_all();
    }
  });
  for (int seen = count; seen < 20; seen = count) count.wait(seen);
  std::vector<std::string> before;
  {
    const MutexLock lock(mutex);
    before = acknowledged;
  }
  v1::Backup backup;
  const grpc::Status status = Backup("first", &backup);
  ASSERT_TRUE(status.ok()) << status.error_message();
  submits.request_stop();
  submits.join();
  EXPECT_GT(acknowledged.size(), before.size()) << "submits went on";
  EXPECT_GE(backup.jobs(), static_cast<int64_t>(before.size()));
  EXPECT_EQ(backup.path(), (folder_.path() / "data" / "backups" / "first").string());

  server_.reset();
  const auto restored =
      RestoreBackup(backup.path(), folder_.path() / "restored", [](const auto&) { return true; });
  ASSERT_TRUE(restored.ok()) << restored.status();
  options_.core.restart_grace = absl::ZeroDuration();  // The worker of before does not come back.
  StartServer("restored");
  for (const std::string& id : before) {
    EXPECT_EQ(GetJob(id).id(), id);
    ExpectGaplessEvents(JobId(id));
  }
  EXPECT_EQ(CreateJob("r0").id(), before[0]) << "the request is known as well";
  // It goes on: a worker comes and a job of the backup ends well.
  const auto next = Agent({.name = "other"});
  next->Do(next->NextAssignment());
  next->Do(next->NextAssignment());
  EXPECT_EQ(Watch(before[0]).job.state(), v1::JOB_STATE_SUCCEEDED);
  ExpectGaplessEvents(JobId(before[0]));
}

TEST_F(BackupServiceTest, APathIsRefusedAndSoIsANameThatIsThere) {
  v1::Backup backup;
  const fs::path outside = folder_.path() / "outside";
  EXPECT_EQ(Backup(outside.string(), &backup).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Backup("../outside", &backup).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_FALSE(fs::exists(outside));
  ASSERT_TRUE(Backup("a", &backup).ok());
  EXPECT_EQ(Backup("a", &backup).error_code(), grpc::StatusCode::ALREADY_EXISTS);
}

TEST_F(BackupServiceTest, CredentialsAreNotInIt) {
  v1::Backup backup;
  ASSERT_TRUE(Backup("a", &backup).ok());
  for (const auto& entry : fs::recursive_directory_iterator(backup.path())) {
    if (!entry.is_regular_file()) continue;
    EXPECT_NE(entry.path().extension(), ".token") << entry.path();
    EXPECT_EQ(ReadFile(entry.path())->find(client_token_.RevealSecret()), std::string::npos);
  }
}

TEST_F(BackupServiceTest, WhatIsDroppedMeanwhileGoesWhenItIsDone) {
  ASSERT_TRUE(UploadDataset("data", "{}\n").ok());
  const BlobRef blob = server_->store().GetDataset("data")->blob;
  const fs::path path =
      folder_.path() / "data" / "blobs" / "blobs" / blob.sha256.substr(0, 2) / blob.sha256;
  v1::DeleteDatasetRequest request;
  request.set_name("data");
  v1::DeleteDatasetResponse response;
  {
    const Coordinator::KeptBlobs kept(server_->coordinator());
    ASSERT_TRUE(
        Call(*datasets_, &v1::DatasetService::Stub::DeleteDataset, request, &response).ok());
    EXPECT_TRUE(fs::exists(path));
  }
  EXPECT_FALSE(fs::exists(path));
}

}  // namespace
}  // namespace lathe::testing
