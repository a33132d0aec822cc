#include "common/base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <iterator>

#include "common/base/sha256.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

size_t CountEntries(const fs::path& folder) {
  return static_cast<size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(FileTest, AtomicWriteReplacesAndLeavesNothingBeside) {
  const auto temp = TempFolder::Make("file_test");
  ASSERT_TRUE(temp.ok());
  const fs::path path = temp->path() / "a";
  ASSERT_TRUE(WriteFileAtomically(path, "one").ok());
  ASSERT_TRUE(WriteFileAtomically(path, "two", 0600).ok());
  EXPECT_EQ(*ReadFile(path), "two");
  EXPECT_EQ(CountEntries(temp->path()), 1U);
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST(FileTest, AtomicWriteIntoAMissingFolderFailsAndMakesNothing) {
  const auto temp = TempFolder::Make("file_test");
  EXPECT_EQ(WriteFileAtomically(temp->path() / "no/a", "x").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(CountEntries(temp->path()), 0U);
}

TEST(FileTest, ADiskThatIsFullIsResourceExhausted) {
  EXPECT_EQ(ErrnoToStatus(ENOSPC, "x").code(), absl::StatusCode::kResourceExhausted);
}

TEST(FileTest, ReadRefusesWhatIsTooLargeOrNoFile) {
  const auto temp = TempFolder::Make("file_test");
  ASSERT_TRUE(WriteFileAtomically(temp->path() / "a", "12345").ok());
  EXPECT_EQ(ReadFile(temp->path() / "a", 4).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadFile(temp->path()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadFile(temp->path() / "b").status().code(), absl::StatusCode::kNotFound);
}

TEST(FileTest, TempFolderGoesUnlessPublished) {
  fs::path gone;
  fs::path kept;
  const auto parent = TempFolder::Make("file_test");
  {
    auto one = TempFolder::Make("x", parent->path());
    auto two = TempFolder::Make("x", parent->path());
    gone = one->path();
    kept = parent->path() / "kept";
    ASSERT_TRUE(WriteFileAtomically(two->path() / "a", "x").ok());
    ASSERT_TRUE(two->PublishAs(kept).ok());
  }
  EXPECT_FALSE(fs::exists(gone));
  EXPECT_TRUE(fs::exists(kept / "a"));
}

TEST(FileTest, OnlyNewAndEmptyFoldersMayBeFilled) {
  const auto temp = TempFolder::Make("file_test");
  EXPECT_TRUE(RequireNewOrEmptyFolder(temp->path()).ok());
  EXPECT_TRUE(RequireNewOrEmptyFolder(temp->path() / "new").ok());
  ASSERT_TRUE(WriteFileAtomically(temp->path() / "a", "x").ok());
  EXPECT_EQ(RequireNewOrEmptyFolder(temp->path()).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(RequireNewOrEmptyFolder(temp->path() / "a").code(), absl::StatusCode::kAlreadyExists);
}

TEST(Sha256Test, MatchesThePublishedVector) {
  const std::string expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  EXPECT_EQ(Sha256Hex("abc"), expected);
  const auto temp = TempFolder::Make("file_test");
  ASSERT_TRUE(WriteFileAtomically(temp->path() / "a", "abc").ok());
  EXPECT_EQ(*Sha256OfFile(temp->path() / "a"), expected);
}

TEST(FileTest, AFileIsReadInChunksUpToABoundOrTheSinksError) {
  const auto temp = TempFolder::Make("file_test");
  const fs::path path = temp->path() / "a";
  const std::string bytes(3 << 20, 'x');
  ASSERT_TRUE(WriteFileAtomically(path, bytes).ok());
  std::string got;
  const auto take = [&](absl::string_view chunk) {
    EXPECT_LE(chunk.size(), size_t{1} << 20);
    got.append(chunk.data(), chunk.size());
    return absl::OkStatus();
  };
  ASSERT_TRUE(ReadInChunks(path, take).ok());
  EXPECT_EQ(got, bytes);
  got.clear();
  ASSERT_TRUE(ReadInChunks(path, take, (1 << 20) + 5).ok());
  EXPECT_EQ(got.size(), (size_t{1} << 20) + 5);
  const auto refuse = [](absl::string_view) { return absl::CancelledError("enough"); };
  EXPECT_TRUE(absl::IsCancelled(ReadInChunks(path, refuse)));
  EXPECT_TRUE(absl::IsNotFound(ReadInChunks(temp->path() / "b", take)));
}

TEST(FileTest, ALockIsHeldUntilItsDescriptorIsClosed) {
  const auto temp = TempFolder::Make("file_test");
  auto first = LockFile(temp->path() / "lock", "busy");
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = LockFile(temp->path() / "lock", "busy").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(second));
  EXPECT_EQ(second.message(), "busy");
  first->Reset();
  EXPECT_TRUE(LockFile(temp->path() / "lock", "busy").ok());
}

TEST(FileTest, PathsThatWouldLeaveTheirFolderAreNotBelowIt) {
  for (const char* path : {"a", "a/b.txt", ".hidden/x", "a/..b"}) EXPECT_TRUE(IsPathBelow(path));
  for (const char* path : {"", "/a", "a/", "a//b", ".", "..", "a/../b", "../a"}) {
    EXPECT_FALSE(IsPathBelow(path)) << path;
  }
  EXPECT_FALSE(IsPathBelow(absl::string_view("a\0b", 3)));
}

}  // namespace
}  // namespace lathe
