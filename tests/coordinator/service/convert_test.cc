#include "coordinator/service/convert.h"

#include <gtest/gtest.h>

#include <functional>

#include "common/base/sha256.h"
#include "coordinator/service/tasks.h"

namespace lathe {
namespace {

TEST(ConvertTest, PathsThatLeaveTheirFolderAreRefused) {
  for (const char* good : {"a", "a/b.c", "config.json", "..a", "a..b/c"})
    EXPECT_TRUE(ValidatePath(good).ok()) << good;
  for (const std::string& bad :
       {std::string(), std::string("/a"), std::string("a/"), std::string("a//b"), std::string(".."),
        std::string("a/../b"), std::string("./a"), std::string("a\\b"), std::string("a\nb"),
        std::string("a\0b", 3), std::string(256, 'a')}) {
    EXPECT_FALSE(ValidatePath(bad).ok()) << bad;
  }
}

v1::FileTree TreeOf(std::initializer_list<const char*> paths) {
  v1::FileTree tree;
  for (const char* path : paths) {
    v1::FileRef* file = tree.add_files();
    file->set_path(path);
    file->mutable_blob()->set_sha256(Sha256Hex(path));
  }
  return tree;
}

TEST(ConvertTest, ATreeIsSortedAndHasEveryPathOnce) {
  const auto tree = FromProto(TreeOf({"b", "a"}));
  ASSERT_TRUE(tree.ok());
  EXPECT_EQ(tree->front().path, "a");
  EXPECT_EQ(TreeSha256(*tree), TreeSha256(*FromProto(TreeOf({"a", "b"}))));
  EXPECT_FALSE(FromProto(TreeOf({"a", "a"})).ok());
  v1::FileTree bad = TreeOf({"a"});
  bad.mutable_files(0)->mutable_blob()->set_sha256("../x");
  EXPECT_FALSE(FromProto(bad).ok());
}

TEST(ConvertTest, TimesAndDurationsSurvive) {
  EXPECT_EQ(FromProto(ToProto(absl::Milliseconds(1500))), absl::Milliseconds(1500));
  EXPECT_EQ(ToProto(absl::FromUnixMillis(2500)).nanos(), 500'000'000);
}

TEST(TasksTest, TheShardKeyDependsOnWhatPrepareReadsAndOnNothingElse) {
  Job job;
  job.dataset_blob = {"data", 1};
  job.base.files = {{"model.safetensors", {"weights", 1}}, {"tokenizer.json", {"tokens", 1}}};
  const std::string key = ShardKey(job);
  Job same = job;
  same.base.files[0].blob.sha256 = "other weights";
  same.spec.learning_rate = 0.5;
  same.spec.ranks = 7;
  EXPECT_EQ(ShardKey(same), key);
  for (const auto& change : std::vector<std::function<void(Job&)>>{
           [](Job& j) { j.dataset_blob.sha256 = "x"; },
           [](Job& j) { j.base.files[1].blob.sha256 = "x"; },
           [](Job& j) { j.spec.max_length = 99; }, [](Job& j) { j.spec.seed = 5; },
           [](Job& j) { j.spec.validation_fraction = 0.2; },
           [](Job& j) { j.spec.on_too_long = "drop"; }}) {
    Job other = job;
    change(other);
    EXPECT_NE(ShardKey(other), key);
  }
}

}  // namespace
}  // namespace lathe
