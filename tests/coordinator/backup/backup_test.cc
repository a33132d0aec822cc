#include "coordinator/backup/backup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "coordinator/backup/restore.h"
#include "coordinator/store/sqlite_store.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

bool GoOn(const BackupProgress&) { return true; }

class BackupTest : public testing::Test {
 protected:
  BackupTest() {
    dataset_.name = "d";
    dataset_.blob = AddBlob("rows of a data set");
    EXPECT_TRUE(store_->PutDataset(dataset_).ok());
    AddBlob("nobody names this one");
    Job job;
    job.id = JobId("job-1");
    job.request_id = "r";
    job.last_sequence = 1;
    job.dataset_blob = dataset_.blob;
    EXPECT_TRUE(store_->CreateJob(job, {.sequence = 1, .message = "created"}).ok());
    EXPECT_TRUE(MakeFolder(logs_).ok());
    EXPECT_TRUE(WriteFileAtomically(logs_ / "job-1.log", "a line\n").ok());
  }

  BlobRef AddBlob(const std::string& bytes) {
    const fs::path path = folder_.path() / "blob";
    EXPECT_TRUE(WriteFileAtomically(path, bytes).ok());
    return *blobs_->AddFile(path);
  }

  absl::StatusOr<BackupManifest> Backup(const std::string& name,
                                        const OnBackupProgress& on_progress = GoOn) {
    return WriteBackup({*store_, *blobs_, logs_}, root_, name, absl::FromUnixSeconds(7),
                       on_progress);
  }

  absl::StatusOr<BackupManifest> Restore() {
    return RestoreBackup(root_ / "b", folder_.path() / "new" / "data", GoOn);
  }

  TempFolder folder_ = *TempFolder::Make("backup");
  const fs::path root_ = folder_.path() / "backups";
  const fs::path logs_ = folder_.path() / "logs";
  std::unique_ptr<SqliteStore> store_ = *SqliteStore::Open(folder_.path() / "db");
  std::unique_ptr<BlobStore> blobs_ = *BlobStore::Open(folder_.path() / "blobs");
  Dataset dataset_;
};

void FlipByte(const fs::path& path, int64_t offset) {
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(offset);
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(offset);
  file.put(byte);
  ASSERT_TRUE(file.good());
}

TEST_F(BackupTest, ARestoredFolderHoldsRowsBlobsThatTheyNameAndLogs) {
  const auto written = Backup("b");
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(written->jobs, 1);
  EXPECT_EQ(written->files.size(), 4U) << "two databases, a blob, a log";
  const auto restored = Restore();
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->files, written->files);
  EXPECT_EQ(restored->create_time, absl::FromUnixSeconds(7));
  const fs::path data = folder_.path() / "new" / "data";
  const auto store = SqliteStore::Open(data / "db");
  EXPECT_EQ((*store)->GetJob(JobId("job-1"))->request_id, "r");
  EXPECT_EQ((*store)->Events(JobId("job-1"), 0, 10)->size(), 1U);
  const auto blobs = BlobStore::Open(data / "blobs");
  EXPECT_EQ(*(*blobs)->Read(dataset_.blob.sha256, 0, 100), "rows of a data set");
  EXPECT_EQ((*blobs)->total_bytes(), dataset_.blob.size);
  EXPECT_EQ(*ReadFile(data / "logs" / "job-1.log"), "a line\n");
}

TEST_F(BackupTest, EveryFlippedByteIsNoticedAndNothingIsRestored) {
  const auto written = Backup("b");
  ASSERT_TRUE(written.ok()) << written.status();
  std::vector<std::pair<std::string, int64_t>> flips;
  for (const FileRef& file : written->files) {
    for (const int64_t offset : {int64_t{0}, file.blob.size / 2, file.blob.size - 1}) {
      flips.emplace_back(file.path, offset);
    }
  }
  for (const char* file : {"manifest.json", "manifest.sha256"}) {
    const auto size = static_cast<int64_t>(fs::file_size(root_ / "b" / file));
    for (int64_t offset = 0; offset < size; ++offset) flips.emplace_back(file, offset);
  }
  for (const auto& [file, offset] : flips) {
    FlipByte(root_ / "b" / file, offset);
    EXPECT_EQ(Restore().status().code(), absl::StatusCode::kDataLoss) << file << " " << offset;
    FlipByte(root_ / "b" / file, offset);
  }
  EXPECT_FALSE(fs::exists(folder_.path() / "new" / "data"));
  ASSERT_TRUE(Restore().ok());
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path() / "new"), {}), 1);
}

TEST_F(BackupTest, AFileThatIsMissingIsNamed) {
  ASSERT_TRUE(Backup("b").ok());
  fs::remove(root_ / "b" / "db" / "steps.db");
  const absl::Status status = Restore().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("file db/steps.db: is missing"));
}

TEST_F(BackupTest, AFolderThatIsNoBackupOrOfANewerProgramIsRefused) {
  EXPECT_EQ(Restore().status().code(), absl::StatusCode::kNotFound);
  auto manifest = Backup("b");
  ASSERT_TRUE(manifest.ok());
  manifest->schema = 99;
  ASSERT_TRUE(WriteManifest(root_ / "b", *manifest).ok());
  const absl::Status status = Restore().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("database version is 99; this program knows up to 1"));
}

TEST_F(BackupTest, PathsThatLeaveTheFolderAreRefused) {
  auto manifest = Backup("b");
  ASSERT_TRUE(manifest.ok());
  for (const char* path : {"../x", "/x", "db/../../x", ""}) {
    BackupManifest bad = *manifest;
    bad.files[0].path = path;
    ASSERT_TRUE(WriteManifest(root_ / "b", bad).ok());
    EXPECT_EQ(Restore().status().code(), absl::StatusCode::kDataLoss) << path;
  }
}

TEST_F(BackupTest, AFolderWithSomethingInItIsNotRestoredInto) {
  ASSERT_TRUE(Backup("b").ok());
  ASSERT_TRUE(Restore().ok());
  const absl::Status status = Restore().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()), HasSubstr("must be a new or an empty folder"));
}

TEST_F(BackupTest, OneThatEndsHalfWayIsNotThereAndTheNextOneCleansUp) {
  const auto stop = [](const BackupProgress& progress) { return progress.phase == "databases"; };
  EXPECT_EQ(Backup("b", stop).status().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(fs::exists(root_ / "b"));
  ASSERT_TRUE(MakeFolder(root_ / ".unfinished.of-a-killed-process" / "db").ok());
  ASSERT_TRUE(Backup("b").ok());
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(root_)) left.push_back(entry.path().filename());
  EXPECT_THAT(left, testing::UnorderedElementsAre("b", ".lock"));
}

TEST_F(BackupTest, NamesOnlyNoPathsAndNoneTwice) {
  for (const char* name : {"", "..", "a/b", "/tmp/x", ".hidden"}) {
    EXPECT_EQ(Backup(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  ASSERT_TRUE(Backup("b").ok());
  EXPECT_EQ(Backup("b").status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(BackupTest, ABlobThatTheDiskDamagedIsNamedAndThereIsNoBackup) {
  const auto path = blobs_->PathOf(dataset_.blob.sha256);
  ASSERT_TRUE(path.ok());
  FlipByte(*path, 3);
  const absl::Status status = Backup("b").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path->string()));
  ASSERT_TRUE(blobs_->Remove(dataset_.blob.sha256).ok());
  EXPECT_EQ(Backup("b").status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(fs::exists(root_ / "b"));
}

}  // namespace
}  // namespace lathe
