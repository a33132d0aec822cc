// Checkpoints on their way through the agent, and the stop of a worker whose training writes one.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <fstream>
#include <string>
#include <thread>

#include "common/base/sha256.h"
#include "tests/worker/agent/agent_fixture.h"

namespace lathe::agent {
namespace {

using ::testing::HasSubstr;

TEST_F(AgentTest, ACheckpointIsUploadedBeforeItIsReported) {
  StartAgent();
  Assign(Train("asg-1", 0, "checkpoint step-5 5 1000\nwait-cancel"));
  ASSERT_TRUE(coordinator_.WaitFor([](const Record& record) {
    return !record.updates.empty() && record.updates.back().has_checkpoint();
  }));
  const Record record = coordinator_.record();
  const pb::AssignmentUpdate& update = record.updates.back();
  EXPECT_EQ(update.attempt(), 3);
  EXPECT_EQ(update.checkpoint().step(), 5);
  ASSERT_EQ(update.checkpoint().files().files_size(), 2);
  const v1::FileRef& file = update.checkpoint().files().files(1);
  EXPECT_EQ(file.path(), "state.safetensors");
  EXPECT_EQ(record.uploads.at(file.blob().sha256()), std::string(1000, 'c'));
  Cancel("asg-1");
  EXPECT_EQ(coordinator_.WaitForEnd("asg-1").cause(), "cancelled");
  EXPECT_TRUE(AssignmentFoldersAreGone());
}

// The coordinator answers `draining` with a pause, as for a user's.
TEST_F(AgentTest, AStopWaitsForTrainingsToEndAndTakesNothingNew) {
  options_.drain_timeout = absl::Minutes(1);
  StartAgent();
  Assign(Train("asg-1", 0, "wait-pause\nfail 1 stopped after step 3"));
  ASSERT_TRUE(coordinator_.WaitFor([](const Record& record) {
    return !record.updates.empty() && record.updates.back().has_started();
  }));
  std::jthread stop([this] { agent_->Stop(); });
  ASSERT_TRUE(coordinator_.WaitFor([](const Record& record) { return record.draining; }));
  Assign(Prepare("asg-2", "done"));
  EXPECT_THAT(coordinator_.WaitForEnd("asg-2").message(), HasSubstr("being stopped"));
  Pause("asg-1");
  const pb::Ended ended = coordinator_.WaitForEnd("asg-1");
  EXPECT_EQ(ended.code(), static_cast<int>(absl::StatusCode::kCancelled)) << ended.message();
  EXPECT_THAT(ended.message(), HasSubstr("stopped after step 3"));
}

TEST_F(AgentTest, OfATrainingThatStandsStillTheLogSaysWhatItsThreadsWaitFor) {
  StartAgent();
  Assign(Train("asg-1", 0, "wait-cancel"));
  ASSERT_TRUE(coordinator_.WaitFor([](const Record& record) {
    return !record.updates.empty() && record.updates.back().has_started();
  }));
  pb::CoordinatorMessage cancel;
  cancel.mutable_cancel()->set_assignment_id("asg-1");
  cancel.mutable_cancel()->set_diagnose(true);
  coordinator_.Send(cancel);
  EXPECT_EQ(coordinator_.WaitForEnd("asg-1").cause(), "cancelled");
  EXPECT_TRUE(WaitForLogs("thread ")) << coordinator_.record().logs;
}

TEST_F(AgentTest, ACheckpointThatIsALinkOrHasOtherFilesIsNotSent) {
  StartAgent();
  for (const std::string name : {"link-5", "more-5"}) {
    Assign(Train(name, 0, "checkpoint " + name + " 5 10\nexit 75"));
    EXPECT_EQ(coordinator_.WaitForEnd(name).cause(), "peer_lost");
  }
  for (const pb::AssignmentUpdate& update : coordinator_.record().updates) {
    EXPECT_FALSE(update.has_checkpoint());
  }
  EXPECT_TRUE(coordinator_.record().uploads.empty());
}

// Of two attempts the next one goes on from it; a user who cancels wants the slots.
TEST_F(AgentTest, ACheckpointOnItsWayIsBroughtToItsEndIfTheJobGoesOn) {
  coordinator_.Change([](auto& behaviour) { behaviour.hold_uploads = true; });
  StartAgent();
  const auto cancel_while_uploading = [this](const std::string& id, int uploads, bool keep) {
    Assign(Train(id, 0, "checkpoint step-5 5 10\nwait-cancel"));
    EXPECT_TRUE(coordinator_.WaitFor(
        [&](const Record& record) { return record.num_uploads_begun == uploads; }));
    pb::CoordinatorMessage message;
    message.mutable_cancel()->set_assignment_id(id);
    message.mutable_cancel()->set_keep_checkpoint(keep);
    coordinator_.Send(message);
  };
  cancel_while_uploading("user", 1, false);
  coordinator_.WaitForEnd("user");
  EXPECT_TRUE(coordinator_.record().uploads.empty());
  cancel_while_uploading("peer", 2, true);
  coordinator_.Change([](auto& behaviour) { behaviour.hold_uploads = false; });
  coordinator_.WaitForEnd("peer");
  std::vector<std::string> told;
  for (const pb::AssignmentUpdate& update : coordinator_.record().updates) {
    if (update.assignment_id() != "peer") continue;
    if (update.has_checkpoint()) told.push_back("checkpoint");
    if (update.has_ended()) told.push_back("ended");
  }
  EXPECT_EQ(told, (std::vector<std::string>{"checkpoint", "ended"}));
}

// The coordinator then starts the job anew; any other input is the machine's fault.
TEST_F(AgentTest, ACheckpointThatThisDiskDamagedIsFetchedAgain) {
  StartAgent();
  const auto resume = [&](const std::string& id) {
    pb::Assignment assignment = Train(id, 0, "print " + id + "\nexit 75");
    (*assignment.mutable_inputs())["resume"] =
        coordinator_.Tree({{"state.safetensors", coordinator_.AddBlob("the state")}});
    Assign(assignment);
    EXPECT_EQ(coordinator_.WaitForEnd(id).cause(), "peer_lost");
    return coordinator_.record().num_downloads;
  };
  const int first = resume("asg-1");
  const std::string sha256 = Sha256Hex("the state");
  const auto cached = folder_.path() / "root/cache/blobs" / sha256.substr(0, 2) / sha256;
  ASSERT_TRUE(std::filesystem::exists(cached));
  // The script is another one each time; the rest is in the cache.
  EXPECT_EQ(resume("asg-2"), first + 1);
  ASSERT_EQ(chmod(cached.c_str(), 0600), 0);
  std::ofstream(cached) << "tHe state";
  EXPECT_EQ(resume("asg-3"), first + 3);
  EXPECT_EQ(*ReadFile(cached), "the state");
}

TEST_F(AgentTest, AResumeInputThatIsLostIsTheCheckpointsFault) {
  StartAgent();
  for (const std::string name : {"resume", "parent"}) {
    pb::Assignment assignment = Train("asg-" + name, 0, "done");
    v1::FileRef& file = *(*assignment.mutable_inputs())[name].add_files();
    file.set_path("state.safetensors");
    file.mutable_blob()->set_sha256(Sha256Hex("bytes that nobody has"));
    file.mutable_blob()->set_size(21);
    Assign(assignment);
    const pb::Ended ended = coordinator_.WaitForEnd("asg-" + name);
    EXPECT_EQ(ended.cause(), name == "resume" ? "checkpoint" : "machine") << ended.message();
    EXPECT_THAT(ended.message(), HasSubstr("input " + name));
  }
}

TEST_F(AgentTest, AChildThatCannotUseItsCheckpointSaysSoByItsExit) {
  StartAgent();
  Assign(Train("asg-1", 1, "exit 76"));
  EXPECT_EQ(coordinator_.WaitForEnd("asg-1").cause(), "checkpoint");
}

TEST_F(AgentTest, ACheckpointThatCannotBeStoredOrNamedDoesNotEndTheTraining) {
  coordinator_.Change([](auto& behaviour) {
    behaviour.upload_error = absl::ResourceExhaustedError("the disk is full");
  });
  StartAgent();
  Assign(Train("asg-1", 0, "checkpoint step-5 5 10\ncheckpoint ../../../x 6 10\nstep 7\nexit 75"));
  const pb::Ended ended = coordinator_.WaitForEnd("asg-1");
  EXPECT_EQ(ended.cause(), "peer_lost") << ended.message();
  bool went_on = false;
  for (const pb::AssignmentUpdate& update : coordinator_.record().updates) {
    EXPECT_FALSE(update.has_checkpoint());
    went_on = went_on || update.step().step() == 7;
  }
  EXPECT_TRUE(went_on);
  EXPECT_TRUE(coordinator_.record().uploads.empty());
}

}  // namespace
}  // namespace lathe::agent
