#include "common/blob/blob_store.h"

#include <gtest/gtest.h>

#include <fstream>

#include "absl/time/clock.h"
#include "common/base/sha256.h"
#include "tests/testing/disk_journal.h"

namespace lathe {
namespace {

BlobRef RefOf(const std::string& bytes) {
  return {Sha256Hex(bytes), static_cast<int64_t>(bytes.size())};
}

class BlobStoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<BlobStore> Open(BlobStoreOptions options = {}) {
    auto store = BlobStore::Open(folder_.path() / "store", options);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }

  static absl::Status Put(BlobStore& store, const std::string& bytes) {
    auto writer = store.BeginFresh(RefOf(bytes));
    if (!writer.ok()) return writer.status();
    const absl::Status status = writer->Append(bytes);
    return status.ok() ? writer->Commit() : status;
  }

  TempFolder folder_ = *TempFolder::Make("blob");
};

TEST_F(BlobStoreTest, WhatWasCommittedOutlivesALossOfPower) {
  auto store = Open();
  testing::TakeDiskJournal();
  ASSERT_TRUE(Put(*store, "hello, blob").ok());
  EXPECT_EQ(testing::WhatPowerLossTakes(testing::TakeDiskJournal()), "");
}

TEST_F(BlobStoreTest, GivesBackWhatWasCommittedAlsoAfterReopening) {
  const std::string bytes = "hello, blob";
  {
    auto store = Open();
    ASSERT_TRUE(Put(*store, bytes).ok());
    EXPECT_EQ(*store->Read(Sha256Hex(bytes), 0, 100), bytes);
    EXPECT_EQ(*store->Read(Sha256Hex(bytes), 7, 2), "bl");
    EXPECT_EQ(*store->Read(Sha256Hex(bytes), 11, 100), "");
    EXPECT_EQ(store->Read(Sha256Hex(bytes), 12, 1).status().code(), absl::StatusCode::kOutOfRange);
  }
  auto store = Open();
  EXPECT_TRUE(store->Stat(Sha256Hex(bytes)).complete);
  EXPECT_EQ(store->total_bytes(), 11);
  EXPECT_EQ(Put(*store, bytes).code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(BlobStoreTest, AnUploadGoesOnWhereItStopped) {
  const std::string bytes = "0123456789";
  {
    auto store = Open();
    auto writer = store->Begin(RefOf(bytes), 0);
    ASSERT_TRUE(writer->Append("0123").ok());
  }
  auto store = Open();
  EXPECT_EQ(store->Stat(Sha256Hex(bytes)).size, 4);
  EXPECT_FALSE(store->Stat(Sha256Hex(bytes)).complete);
  EXPECT_EQ(store->Begin(RefOf(bytes), 3).status().code(), absl::StatusCode::kOutOfRange);
  auto writer = store->Begin(RefOf(bytes), 4);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE(writer->Append("456789").ok());
  ASSERT_TRUE(writer->Commit().ok());
  EXPECT_EQ(*store->Read(Sha256Hex(bytes), 0, 100), bytes);
}

TEST_F(BlobStoreTest, WrongBytesAreRefusedAndLeaveNothing) {
  auto store = Open();
  const BlobRef blob = RefOf("right");
  auto writer = store->BeginFresh(blob);
  ASSERT_TRUE(writer->Append("wrong").ok());
  EXPECT_EQ(writer->Commit().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store->Stat(blob.sha256).size, 0);
  EXPECT_EQ(store->Read(blob.sha256, 0, 1).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(BlobStoreTest, TooFewAndTooManyBytesAreRefused) {
  auto store = Open();
  auto writer = store->BeginFresh(RefOf("right"));
  EXPECT_EQ(writer->Append("right and more").code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(writer->Append("rig").ok());
  EXPECT_EQ(writer->Commit().code(), absl::StatusCode::kDataLoss);
}

TEST_F(BlobStoreTest, TwoUploadsOfOneBlobDoNotMix) {
  auto store = Open();
  auto first = store->Begin(RefOf("abc"), 0);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(store->Begin(RefOf("abc"), 0).status().code(), absl::StatusCode::kAborted);
  ASSERT_TRUE(first->Append("abc").ok());
  ASSERT_TRUE(first->Commit().ok());
}

TEST_F(BlobStoreTest, NamesThatAreNoHashAreRefused) {
  auto store = Open();
  for (const std::string name : {"", "../../etc/passwd", "ABCDEF", "a"}) {
    EXPECT_EQ(store->Begin({name, 1}, 0).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(store->Read(name, 0, 1).status().code(), absl::StatusCode::kNotFound);
    EXPECT_TRUE(store->Remove(name).ok());
  }
  EXPECT_EQ(store->Begin({Sha256Hex("x"), -1}, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(BlobStoreTest, LimitsHold) {
  auto store = Open({.max_blob_bytes = 8, .max_total_bytes = 10});
  EXPECT_EQ(Put(*store, "123456789").code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(Put(*store, "12345678").ok());
  EXPECT_EQ(Put(*store, "abc").code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(store->Remove(Sha256Hex("12345678")).ok());
  EXPECT_TRUE(Put(*store, "abc").ok());
}

TEST_F(BlobStoreTest, EvictionSparesWhatIsKeptAndTakesTheOldestFirst) {
  auto store = Open();
  for (const std::string bytes : {"old.", "new.", "kept"}) ASSERT_TRUE(Put(*store, bytes).ok());
  const auto path = store->PathOf(Sha256Hex("old."));
  std::filesystem::last_write_time(*path,
                                   std::filesystem::last_write_time(*path) - std::chrono::hours(1));
  ASSERT_TRUE(store->EvictTo(8, {Sha256Hex("kept")}).ok());
  EXPECT_FALSE(store->Stat(Sha256Hex("old.")).complete);
  EXPECT_TRUE(store->Stat(Sha256Hex("new.")).complete);
  ASSERT_TRUE(store->EvictTo(0, {Sha256Hex("kept")}).ok());
  EXPECT_TRUE(store->Stat(Sha256Hex("kept")).complete);
  EXPECT_EQ(store->total_bytes(), 4);
}

TEST_F(BlobStoreTest, WhatNobodyNamedOrUsedForLongIsRemovedPartsAsWell) {
  auto store = Open();
  for (const std::string bytes : {"old.", "new.", "kept"}) ASSERT_TRUE(Put(*store, bytes).ok());
  ASSERT_TRUE(store->Begin(RefOf("a part"), 0)->Append("a p").ok());
  const std::filesystem::path part = folder_.path() / "store" / "partial" / Sha256Hex("a part");
  for (const auto& path :
       {*store->PathOf(Sha256Hex("old.")), *store->PathOf(Sha256Hex("kept")), part}) {
    std::filesystem::last_write_time(
        path, std::filesystem::last_write_time(path) - std::chrono::hours(48));
  }
  ASSERT_TRUE(store->RemoveUnused({Sha256Hex("kept")}, absl::Now() - absl::Hours(24)).ok());
  EXPECT_FALSE(store->Stat(Sha256Hex("old.")).complete);
  EXPECT_TRUE(store->Stat(Sha256Hex("new.")).complete);
  EXPECT_TRUE(store->Stat(Sha256Hex("kept")).complete);
  EXPECT_FALSE(std::filesystem::exists(part));
  EXPECT_EQ(store->total_bytes(), 8);
}

TEST_F(BlobStoreTest, OneFolderHasOneOwner) {
  auto store = Open();
  EXPECT_EQ(BlobStore::Open(folder_.path() / "store").status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(BlobStoreTest, TakesInAFileByCopy) {
  std::ofstream(folder_.path() / "f") << "file bytes";
  auto store = Open();
  const auto blob = store->AddFile(folder_.path() / "f");
  ASSERT_TRUE(blob.ok()) << blob.status();
  EXPECT_EQ(*blob, RefOf("file bytes"));
  EXPECT_EQ(*store->AddFile(folder_.path() / "f"), *blob);
  EXPECT_EQ(*store->Read(blob->sha256, 0, 100), "file bytes");
}

}  // namespace
}  // namespace lathe
