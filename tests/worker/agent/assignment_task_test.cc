#include "worker/agent/assignment_task.h"

#include <gtest/gtest.h>

#include "gmock/gmock.h"

namespace lathe::agent {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

class AssignmentTaskTest : public ::testing::Test {
 protected:
  AssignmentTaskTest() {
    options_.name = "worker-2";
    options_.slots = 4;
    options_.threads_per_slot = 3;
    assignment_.set_id("asg-1");
    assignment_.set_job_id("job-1");
    assignment_.set_attempt(2);
    assignment_.set_slots(2);
  }

  void AddInput(const std::string& name, const std::string& path) {
    v1::FileRef& file = *(*assignment_.mutable_inputs())[name].add_files();
    file.set_path(path);
    file.mutable_blob()->set_sha256(std::string(64, 'a'));
  }

  absl::Status Validate() const { return ValidateAssignment(assignment_, options_); }

  pb::TrainTask& Train(int rank, int world_size) {
    pb::TrainTask& train = *assignment_.mutable_task()->mutable_train();
    train.set_rank(rank);
    train.set_world_size(world_size);
    return train;
  }

  AgentOptions options_;
  pb::Assignment assignment_;
  AssignmentFolders folders_{"/root/assignments/asg-1"};
};

TEST_F(AssignmentTaskTest, PathsAndThreadsAreTheAgentsAndNotTheCoordinators) {
  Train(0, 2).set_output_dir("/etc");
  AddInput("model", "config.json");
  AddInput("shards", "train.shard");
  ASSERT_TRUE(Validate().ok()) << Validate();
  const pb::Task task = FillTask(assignment_, folders_, options_);
  EXPECT_EQ(task.train().model_dir(), "/root/assignments/asg-1/in/model");
  EXPECT_EQ(task.train().shard_dir(), "/root/assignments/asg-1/in/shards");
  EXPECT_EQ(task.train().output_dir(), "/root/assignments/asg-1/out");
  EXPECT_EQ(task.train().rendezvous_fd(), kRendezvousFd);
  EXPECT_EQ(task.job_id(), "job-1");
  EXPECT_EQ(task.attempt(), 2);
  EXPECT_EQ(task.threads(), 6);
  EXPECT_THAT(ChildEnvironment(task, folders_, options_, {}), Contains("OMP_NUM_THREADS=6"));
  EXPECT_EQ(ProgramOf(task), "lathe-trainer");
}

TEST_F(AssignmentTaskTest, AnAdapterToGoOnFromIsAFolderOfItsOwn) {
  Train(0, 1).set_parent_dir("/etc");
  AddInput("model", "config.json");
  AddInput("shards", "train.shard");
  EXPECT_EQ(FillTask(assignment_, folders_, options_).train().parent_dir(), "");
  AddInput("parent", "adapter_model.safetensors");
  ASSERT_TRUE(Validate().ok()) << Validate();
  EXPECT_EQ(FillTask(assignment_, folders_, options_).train().parent_dir(),
            "/root/assignments/asg-1/in/parent");
}

TEST_F(AssignmentTaskTest, RankZeroWritesCheckpointsAndEveryRankGoesOnFromOne) {
  AddInput("model", "config.json");
  AddInput("shards", "train.shard");
  for (const int rank : {0, 1}) {
    Train(rank, 2).set_checkpoint_dir("/etc");
    EXPECT_EQ(FillTask(assignment_, folders_, options_).train().checkpoint_dir(),
              rank == 0 ? "/root/assignments/asg-1/checkpoints" : "");
    EXPECT_EQ(FillTask(assignment_, folders_, options_).train().resume_dir(), "");
  }
  AddInput("resume", "manifest.json");
  ASSERT_TRUE(Validate().ok()) << Validate();
  EXPECT_EQ(FillTask(assignment_, folders_, options_).train().resume_dir(),
            "/root/assignments/asg-1/in/resume");
}

TEST_F(AssignmentTaskTest, ARankOwnsItsDeviceWhereSlotsAreGpusAndElseSeesNone) {
  AddInput("model", "config.json");
  AddInput("shards", "train.shard");
  Train(0, 1).set_owns_device(true);
  const pb::Task on_cores = FillTask(assignment_, folders_, options_);
  EXPECT_FALSE(on_cores.train().owns_device());
  EXPECT_THAT(ChildEnvironment(on_cores, folders_, options_, {}),
              Contains("CUDA_VISIBLE_DEVICES="));
  options_.gpus = {0, 1, 2, 3};
  const pb::Task on_gpus = FillTask(assignment_, folders_, options_);
  EXPECT_TRUE(on_gpus.train().owns_device());
  EXPECT_THAT(ChildEnvironment(on_gpus, folders_, options_, {1, 3}),
              Contains("CUDA_VISIBLE_DEVICES=1,3"));
}

TEST_F(AssignmentTaskTest, OnlyRankZeroOwnsTheRendezvous) {
  Train(1, 2);
  EXPECT_FALSE(OwnsRendezvous(assignment_.task()));
  EXPECT_EQ(FillTask(assignment_, folders_, options_).train().rendezvous_fd(), -1);
  EXPECT_EQ(SourceLabel(assignment_.task(), "worker-2"), "train rank 1 on worker-2");
}

TEST_F(AssignmentTaskTest, TheDataIsOneFile) {
  assignment_.mutable_task()->mutable_check();
  AddInput("data", "rows.jsonl");
  ASSERT_TRUE(Validate().ok());
  const pb::Task task = FillTask(assignment_, folders_, options_);
  EXPECT_EQ(task.check().data_path(), "/root/assignments/asg-1/in/data/rows.jsonl");
  EXPECT_EQ(task.check().model_dir(), "");
  EXPECT_EQ(ProgramOf(task), "lathe-prepare");
  AddInput("data", "more.jsonl");
  EXPECT_THAT(Validate().message(), HasSubstr("input data has 2 files"));
}

TEST_F(AssignmentTaskTest, AnAssignmentThatMakesNoSenseIsRefused) {
  EXPECT_THAT(Validate().message(), HasSubstr("task"));
  Train(2, 2);
  EXPECT_THAT(Validate().message(), HasSubstr("rank is 2; must be in [0, 2)"));
  Train(0, 1);
  AddInput("model", "config.json");
  EXPECT_THAT(Validate().message(), HasSubstr("'shards' is missing"));
  AddInput("shards", "s");
  AddInput("../../etc", "passwd");
  EXPECT_THAT(Validate().message(), HasSubstr("not one of those of the task"));
  assignment_.mutable_inputs()->erase("../../etc");
  assignment_.set_slots(5);
  EXPECT_THAT(Validate().message(), HasSubstr("slots is 5; must be in [0, 4]"));
  assignment_.set_slots(1);
  for (const char* id : {"", "..", "a/b", "A b"}) {
    assignment_.set_id(id);
    EXPECT_FALSE(Validate().ok()) << id;
  }
}

}  // namespace
}  // namespace lathe::agent
