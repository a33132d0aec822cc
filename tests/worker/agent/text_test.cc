#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "worker/agent/file_tree.h"
#include "worker/agent/text_line.h"
#include "worker/agent/worker_root.h"

namespace lathe::agent {
namespace {

std::vector<std::string> Split(const std::vector<std::string>& pieces) {
  std::vector<std::string> lines;
  const auto consume = [&](std::string line) { lines.push_back(std::move(line)); };
  LineSplitter splitter;
  for (const std::string& piece : pieces) splitter.Add(piece, consume);
  splitter.Finish(consume);
  return lines;
}

TEST(TextLineTest, InvalidBytesAndEscapesAreReplaced) {
  EXPECT_EQ(CleanLine("a\tb \xE4\xBD\xA0"), "a\tb \xE4\xBD\xA0");
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(CleanLine("\x1b[31m"), bad + "[31m");
  for (const char* invalid : {"\xff", "\xc0", "\xe4", "\xf5", "\xc2\x85"}) {
    EXPECT_EQ(CleanLine(invalid), bad) << invalid;
  }
  EXPECT_EQ(CleanLine("\xed\xa0\x80"), bad + bad + bad);  // A surrogate.
  EXPECT_EQ(CleanLine("\xe0\x80\xaf"), bad + bad + bad);  // An overlong '/'.
}

TEST(TextLineTest, LinesAreWholeHoweverTheyArrive) {
  EXPECT_EQ(Split({"on", "e\ntwo\r\n", "\n", "10%\r20%\r", "rest"}),
            (std::vector<std::string>{"one", "two", "10%", "20%", "rest"}));
}

TEST(TextLineTest, AnEndlessLineIsCutIntoPieces) {
  const std::vector<std::string> lines = Split({std::string(20000, 'x'), "y\n"});
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0].size(), LineSplitter::kMaxLineBytes);
  EXPECT_EQ(lines[2].size(), 20001 - 2 * LineSplitter::kMaxLineBytes);
}

TEST(FileTreeTest, OnlyPathsThatStayInTheirFolderAreTaken) {
  for (const char* good : {"a", "a/b.txt", "..a", "a..", ".hidden", "\xE4\xBD\xA0.txt"}) {
    EXPECT_TRUE(ValidateRelativePath(good).ok()) << good;
  }
  for (const std::string& bad :
       {std::string(""), std::string("/a"), std::string("a/"), std::string("a//b"),
        std::string("."), std::string("a/../b"), std::string(".."), std::string("a/./b"),
        std::string("a\\b"), std::string("a\nb"), std::string("a\0b", 3), std::string("\xff"),
        std::string(300, 'a'), std::string(1100, '/')}) {
    EXPECT_FALSE(ValidateRelativePath(bad).ok()) << bad;
  }
}

v1::FileTree Tree(const std::vector<std::string>& paths) {
  v1::FileTree tree;
  for (const std::string& path : paths) {
    v1::FileRef& file = *tree.add_files();
    file.set_path(path);
    file.mutable_blob()->set_sha256(std::string(64, '0'));
  }
  return tree;
}

TEST(FileTreeTest, ATreeHasEachPathOnceAndNoFileBelowAFile) {
  EXPECT_TRUE(ValidateTree(Tree({"a", "b/c"})).ok());
  EXPECT_FALSE(ValidateTree(Tree({"a", "a"})).ok());
  EXPECT_FALSE(ValidateTree(Tree({"a", "a/b"})).ok());
  EXPECT_FALSE(ValidateTree(Tree({"a/b/c", "a/b"})).ok());
  v1::FileTree bad = Tree({"a"});
  bad.mutable_files(0)->mutable_blob()->set_sha256("../../etc/passwd");
  EXPECT_FALSE(ValidateTree(bad).ok());
  bad = Tree({"a"});
  bad.mutable_files(0)->mutable_blob()->set_size(-1);
  EXPECT_FALSE(ValidateTree(bad).ok());
}

TEST(WorkerRootTest, TheIdStaysAndLeftoversGo) {
  const TempFolder folder = *TempFolder::Make("worker_root_test");
  const std::filesystem::path path = folder.path() / "root";
  std::string id;
  {
    const auto root = WorkerRoot::Open(path);
    ASSERT_TRUE(root.ok()) << root.status();
    id = root->worker_id();
    ASSERT_TRUE(MakeFolder(root->assignments() / "asg-old").ok());
  }
  const auto again = WorkerRoot::Open(path);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->worker_id(), id);
  EXPECT_TRUE(std::filesystem::is_empty(again->assignments()));
  EXPECT_EQ(std::filesystem::status(path).permissions(), std::filesystem::perms::owner_all);
}

TEST(WorkerRootTest, ASecondAgentIsRefused) {
  const TempFolder folder = *TempFolder::Make("worker_root_test");
  const auto root = WorkerRoot::Open(folder.path() / "root");
  ASSERT_TRUE(root.ok());
  EXPECT_EQ(WorkerRoot::Open(folder.path() / "root").status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(WorkerRootTest, AFolderWithOtherThingsIsLeftAlone) {
  const TempFolder folder = *TempFolder::Make("worker_root_test");
  ASSERT_TRUE(MakeFolder(folder.path() / "assignments").ok());
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "assignments/thesis.txt", "x").ok());
  EXPECT_EQ(WorkerRoot::Open(folder.path()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "assignments/thesis.txt"));
}

}  // namespace
}  // namespace lathe::agent
