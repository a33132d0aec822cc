// The agent's run loop: agent_fixture.h. Checkpoints and the end of a worker:
// agent_checkpoint_test.cc.

#include "worker/agent/agent.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/sha256.h"
#include "gmock/gmock.h"
#include "tests/worker/agent/agent_fixture.h"

namespace lathe::agent {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(AgentTest, OutputsAreUploadedBeforeTheEndIsReported) {
  StartAgent();
  Assign(Prepare("asg-1", "phase read\nwrite train.shard 3000000\nwrite sub/report.json 5\ndone"));
  const pb::Ended ended = coordinator_.WaitForEnd("asg-1");
  ASSERT_TRUE(ended.ok()) << ended.message();
  EXPECT_EQ(ended.done().adapter_sha256(), "aa");
  ASSERT_EQ(ended.outputs().files_size(), 2);
  EXPECT_EQ(ended.outputs().files(0).path(), "sub/report.json");
  EXPECT_EQ(ended.outputs().files(1).path(), "train.shard");
  const Record record = coordinator_.record();
  EXPECT_EQ(record.uploads.at(ended.outputs().files(1).blob().sha256()), std::string(3000000, 'x'));
  EXPECT_EQ(record.order.back(), "ended asg-1");
  EXPECT_EQ(record.order.size(), 3u);
  EXPECT_TRUE(AssignmentFoldersAreGone());
}

TEST_F(AgentTest, UpdatesCarryTheAssignmentAndItsAttempt) {
  StartAgent();
  Assign(Train("asg-1", 1, "step 1\nstep 2\nprogress half\ndone"));
  ASSERT_TRUE(coordinator_.WaitForEnd("asg-1").ok());
  std::vector<int64_t> steps;
  for (const pb::AssignmentUpdate& update : coordinator_.record().updates) {
    EXPECT_EQ(update.assignment_id(), "asg-1");
    EXPECT_EQ(update.job_id(), "job-1");
    EXPECT_EQ(update.attempt(), 3);
    if (!update.has_step()) continue;
    steps.push_back(update.step().step());
    EXPECT_EQ(update.step().attempt(), 3);
  }
  EXPECT_THAT(steps, ElementsAre(1, 2));
}

struct ExitCase {
  const char* script;
  const char* cause;
  const char* message;
};

class AgentExitTest : public AgentTest, public ::testing::WithParamInterface<ExitCase> {};

TEST_P(AgentExitTest, TheCauseIsNamed) {
  StartAgent();
  Assign(Train("asg-1", 1, GetParam().script));
  const pb::Ended ended = coordinator_.WaitForEnd("asg-1");
  EXPECT_FALSE(ended.ok());
  EXPECT_EQ(ended.cause(), GetParam().cause) << ended.message();
  EXPECT_THAT(ended.message(), HasSubstr(GetParam().message));
  EXPECT_THAT(ended.message(), HasSubstr("train rank 1 on worker-1: "));
  EXPECT_TRUE(coordinator_.record().uploads.empty());
}

INSTANTIATE_TEST_SUITE_P(
    All, AgentExitTest,
    ::testing::Values(
        ExitCase{"fail 3 lora.rank is 0\nexit 64", "user", "lora.rank is 0"},
        ExitCase{"fail 14 rank 0 left\nexit 75", "peer_lost", "rank 0 left"},
        ExitCase{"fail 13 broken\nexit 70", "bug", "broken"},
        ExitCase{"fail 3 wrong row\nexit 0", "user", "wrong row"},
        ExitCase{"fail 1 cancelled after step 3\nexit 0", "peer_lost", "cancelled after step 3"},
        ExitCase{"raise 9", "machine", "killed by signal 9"},
        ExitCase{"print what went wrong\nraise 6", "machine", "last line:  what went wrong"},
        ExitCase{"exit 0", "bug", "exited with 0 without a result"},
        ExitCase{"exit 3", "bug", "exited with 3"},
        ExitCase{"write adapter 5\ndone\nexit 70", "bug", "after it had reported success"},
        ExitCase{"write adapter 5\ndone\nhang", "machine", "did not exit after its result"},
        ExitCase{"garbage\nhang", "bug", "a message that cannot be read"},
        ExitCase{"close\nhang", "bug", "closing its channel"}));

TEST_F(AgentTest, AChildKilledBySignalNineIsNamedWithItsMemory) {
  StartAgent();
  Assign(Prepare("asg-1", "raise 9"));
  const std::string message = coordinator_.WaitForEnd("asg-1").message();
  EXPECT_THAT(message, HasSubstr("used at most 0."));
  EXPECT_THAT(message, HasSubstr(" GiB of "));
}

TEST_F(AgentTest, AStubbornChildIsKilledAfterTheGrace) {
  StartAgent();
  Assign(Prepare("asg-1", "grandchild\nprint up\nhang"));
  ASSERT_TRUE(WaitForLogs("up"));
  const std::string logs = coordinator_.record().logs;
  const size_t at = logs.find("grandchild ") + 11;
  int grandchild = 0;
  ASSERT_TRUE(absl::SimpleAtoi(logs.substr(at, logs.find('\n', at) - at), &grandchild)) << logs;
  const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, grandchild, 0)));
  ASSERT_TRUE(pidfd.valid());
  Cancel("asg-1");
  const pb::Ended ended = coordinator_.WaitForEnd("asg-1");
  EXPECT_EQ(ended.cause(), "cancelled");
  pollfd wait_for{pidfd.get(), POLLIN, 0};
  EXPECT_EQ(poll(&wait_for, 1, 10000), 1) << "what the child started is still there";
  EXPECT_TRUE(AssignmentFoldersAreGone());
}

TEST_F(AgentTest, AWillingChildMayEndItself) {
  options_.cancel_grace = absl::Minutes(5);
  StartAgent();
  Assign(Prepare("asg-1", "print up\nwait-cancel"));
  ASSERT_TRUE(WaitForLogs("up"));
  Cancel("asg-1");
  EXPECT_EQ(coordinator_.WaitForEnd("asg-1").cause(), "cancelled");
}

TEST_F(AgentTest, CancelOfAnUnknownAssignmentIsAnswered) {
  StartAgent();
  Cancel("asg-9");
  EXPECT_EQ(coordinator_.WaitForEnd("asg-9").cause(), "cancelled");
}

TEST_F(AgentTest, AChildHasNoDescriptorOfOurs) {
  StartAgent();
  Assign(Prepare("asg-1", "descriptors\ndone"));
  ASSERT_TRUE(coordinator_.WaitForEnd("asg-1").ok());
  EXPECT_THAT(coordinator_.record().logs, HasSubstr("descriptors: 0 1 2 3\n"));
}

TEST_F(AgentTest, RankZeroGetsAListeningSocketAndItsPortIsReported) {
  StartAgent();
  Assign(Train("asg-1", 0, "descriptors\ncheck-rendezvous\ndone"));
  ASSERT_TRUE(coordinator_.WaitForEnd("asg-1").ok());
  const Record record = coordinator_.record();
  EXPECT_THAT(record.logs, HasSubstr("descriptors: 0 1 2 3 4\n"));
  EXPECT_THAT(record.logs, HasSubstr("listening 1\n"));
  int port = 0;
  for (const auto& update : record.updates) {
    if (!update.has_rendezvous()) continue;
    port = update.rendezvous().port();
    EXPECT_EQ(update.rendezvous().host(), "127.0.0.1");
  }
  EXPECT_GT(port, 0);
}

TEST_F(AgentTest, OtherRanksGetTheRendezvousOnce) {
  StartAgent();
  Assign(Train("asg-1", 1, "print up\nwait-rendezvous\nwait-cancel"));
  pb::CoordinatorMessage message;
  message.mutable_rendezvous()->set_assignment_id("asg-1");
  message.mutable_rendezvous()->mutable_rendezvous()->set_host("127.0.0.1");
  message.mutable_rendezvous()->mutable_rendezvous()->set_port(4321);
  coordinator_.Send(message);
  coordinator_.Send(message);
  EXPECT_TRUE(WaitForLogs("rendezvous 127.0.0.1 4321"));
  Cancel("asg-1");
  EXPECT_EQ(coordinator_.WaitForEnd("asg-1").cause(), "cancelled");
}

TEST_F(AgentTest, TheEnvironmentIsCleanAndTheChildDiesWithTheAgent) {
  setenv("LATHE_TEST_SECRET", "hunter2", 1);
  StartAgent();
  Assign(Prepare("asg-1", "process\ndone"));
  ASSERT_TRUE(coordinator_.WaitForEnd("asg-1").ok());
  const std::string logs = coordinator_.record().logs;
  EXPECT_THAT(logs, Not(HasSubstr("hunter2")));
  EXPECT_THAT(logs, HasSubstr("env PATH=/usr/bin:/bin\n"));
  EXPECT_THAT(logs, HasSubstr("env OMP_NUM_THREADS=1\n"));
  EXPECT_THAT(logs, HasSubstr("assignments/asg-1/work\n"));
  EXPECT_THAT(logs, HasSubstr("leader 1 death_signal 9"));
  size_t variables = 0;
  for (size_t at = logs.find("env "); at != logs.npos; at = logs.find("env ", at + 1)) ++variables;
  EXPECT_EQ(variables, 6u) << logs;
}

TEST_F(AgentTest, AFloodOfLinesIsBoundedAndTheLastOnesArrive) {
  coordinator_.Change([](auto& behaviour) { behaviour.takes_logs = false; });
  StartAgent();
  Assign(Prepare("asg-1", "flood 200000\nprint last words\ndone"));
  ASSERT_TRUE(coordinator_.WaitForEnd("asg-1").ok());
  coordinator_.Change([](auto& behaviour) { behaviour.takes_logs = true; });
  ASSERT_TRUE(WaitForLogs("last words"));
  const std::string logs = coordinator_.record().logs;
  EXPECT_THAT(logs, HasSubstr("were dropped here]"));
  EXPECT_LT(logs.size(), 2 * LogPublisher::kMaxQueuedBytes);
}

TEST_F(AgentTest, AssignmentsSurviveABrokenSessionAndTheirEndIsSentAgain) {
  coordinator_.Change([](auto& behaviour) { behaviour.answer_heartbeats = false; });
  StartAgent();
  Assign(Prepare("asg-1", "print up\nwait-cancel"));
  Assign(Prepare("asg-2", "done"));
  ASSERT_TRUE(coordinator_.WaitForEnd("asg-2").ok());
  ASSERT_TRUE(WaitForLogs("up"));
  coordinator_.BreakSession();
  ASSERT_TRUE(coordinator_.WaitFor([](const Record& r) { return r.registers.size() == 2; }));
  const Record record = coordinator_.record();
  EXPECT_EQ(record.registers[0].worker_id(), record.registers[1].worker_id());
  EXPECT_THAT(record.registers[1].running_assignments(), ElementsAre("asg-1", "asg-2"));
  const auto ends = [](const Record& r) {
    return std::count(r.order.begin(), r.order.end(), "ended asg-2");
  };
  EXPECT_TRUE(coordinator_.WaitFor([&](const Record& r) { return ends(r) == 2; }));
  Cancel("asg-1");
  EXPECT_EQ(coordinator_.WaitForEnd("asg-1").cause(), "cancelled");
}

TEST_F(AgentTest, AnAnsweredEndIsNotSentAgain) {
  StartAgent();
  Assign(Prepare("asg-1", "done"));
  ASSERT_TRUE(coordinator_.WaitForEnd("asg-1").ok());
  const int seen = coordinator_.record().num_heartbeats;
  ASSERT_TRUE(coordinator_.WaitFor([&](const Record& r) { return r.num_heartbeats >= seen + 3; }));
  coordinator_.BreakSession();
  ASSERT_TRUE(coordinator_.WaitFor([](const Record& r) { return r.registers.size() == 2; }));
  EXPECT_TRUE(coordinator_.record().registers[1].running_assignments().empty());
}

TEST_F(AgentTest, ASilentCoordinatorLosesItsSessionBeforeTheLeaseEnds) {
  coordinator_.Change([](auto& behaviour) {
    behaviour.answer_heartbeats = false;
    behaviour.lease = absl::Milliseconds(150);
  });
  StartAgent();
  EXPECT_TRUE(coordinator_.WaitFor([](const Record& r) { return r.registers.size() >= 3; }));
}

TEST_F(AgentTest, OrphansAreStoppedAndSaidSoLater) {
  coordinator_.Change([](auto& behaviour) { behaviour.orphan_timeout = absl::Milliseconds(100); });
  StartAgent();
  Assign(Prepare("asg-1", "print up\nhang"));
  ASSERT_TRUE(WaitForLogs("up"));
  coordinator_.Change([](auto& behaviour) { behaviour.reachable = false; });
  coordinator_.BreakSession();
  const fs::path folder = folder_.path() / "root/assignments/asg-1";
  for (int i = 0; i < 2000 && fs::exists(folder); ++i) poll(nullptr, 0, 5);
  EXPECT_FALSE(fs::exists(folder));
  coordinator_.Change([](auto& behaviour) { behaviour.reachable = true; });
  const pb::Ended ended = coordinator_.WaitForEnd("asg-1");
  EXPECT_EQ(ended.cause(), "machine");
  EXPECT_THAT(ended.message(), HasSubstr("no coordinator for 100ms"));
}

TEST_F(AgentTest, AnInputNameThatLeavesItsFolderIsRefused) {
  StartAgent();
  pb::Assignment assignment = Prepare("asg-1", "done");
  (*assignment.mutable_inputs())["model"].mutable_files(0)->set_path("a/../../../etc/x");
  Assign(assignment);
  const pb::Ended ended = coordinator_.WaitForEnd("asg-1");
  EXPECT_EQ(ended.cause(), "bug");
  EXPECT_THAT(ended.message(), HasSubstr("'a/../../../etc/x'"));
  pb::Assignment bad_id = Prepare("../asg", "done");
  Assign(bad_id);
  EXPECT_THAT(coordinator_.WaitForEnd("../asg").message(), HasSubstr("assignment id"));
}

TEST_F(AgentTest, ACutOrCorruptBlobIsFetchedAgainAndOnlyOncePerContent) {
  coordinator_.Change([](auto& behaviour) { behaviour.cut_downloads = 1; });
  StartAgent();
  Assign(Prepare("asg-1", "print a script that is long enough to be cut\ndone"));
  ASSERT_TRUE(coordinator_.WaitForEnd("asg-1").ok());
  EXPECT_THAT(coordinator_.record().download_offsets, Contains(::testing::Gt(0)))
      << "it goes on where it stopped";
  coordinator_.Change([](auto& behaviour) { behaviour.corrupt_downloads = 1; });
  Assign(Prepare("asg-2", "print another script\ndone"));
  ASSERT_TRUE(coordinator_.WaitForEnd("asg-2").ok());
  const int before = coordinator_.record().num_downloads;
  Assign(Prepare("asg-3", "print another script\ndone"));
  ASSERT_TRUE(coordinator_.WaitForEnd("asg-3").ok());
  EXPECT_EQ(coordinator_.record().num_downloads, before);
}

TEST_F(AgentTest, ACachedFileThatWasCutIsFetchedAgain) {
  StartAgent();
  const std::string script = "print hello from a script\ndone";
  Assign(Prepare("asg-1", script));
  ASSERT_TRUE(coordinator_.WaitForEnd("asg-1").ok());
  const std::string hash = Sha256Hex(script);
  const fs::path cached = folder_.path() / "root/cache/blobs" / hash.substr(0, 2) / hash;
  ASSERT_TRUE(fs::exists(cached));
  fs::resize_file(cached, 6);
  Assign(Prepare("asg-2", script));
  EXPECT_TRUE(coordinator_.WaitForEnd("asg-2").ok());
}

TEST_F(AgentTest, AMissingBlobIsNamed) {
  StartAgent();
  pb::Assignment assignment = Prepare("asg-1", "done");
  v1::BlobRef* blob = (*assignment.mutable_inputs())["model"].mutable_files(0)->mutable_blob();
  blob->set_sha256(std::string(64, 'a'));
  Assign(assignment);
  const pb::Ended ended = coordinator_.WaitForEnd("asg-1");
  EXPECT_EQ(ended.cause(), "machine");
  EXPECT_THAT(ended.message(), HasSubstr("input model: file config.json: no such blob"));
}

TEST_F(AgentTest, AnUploadThatTheCoordinatorHasNoSpaceForEndsForWantOfSpace) {
  coordinator_.Change([](auto& behaviour) {
    behaviour.upload_error = absl::ResourceExhaustedError("the disk is full");
  });
  StartAgent();
  Assign(Prepare("asg-1", "write train.shard 10\ndone"));
  const pb::Ended ended = coordinator_.WaitForEnd("asg-1");
  EXPECT_FALSE(ended.ok());
  EXPECT_EQ(ended.cause(), "disk");
  EXPECT_THAT(ended.message(),
              HasSubstr("upload of train.shard: the coordinator: the disk is full"));
  EXPECT_EQ(ended.outputs().files_size(), 0);
}

TEST_F(AgentTest, AnOutputThatIsALinkIsRefused) {
  StartAgent();
  Assign(Prepare("asg-1", "link\ndone"));
  EXPECT_THAT(coordinator_.WaitForEnd("asg-1").message(), HasSubstr("must be a regular file"));
}

TEST_F(AgentTest, AnAssignmentSeesTheGpusOfItsSlotsAndAFreedOneGoesToTheNext) {
  options_.gpus = {3, 1};
  StartAgent();
  Assign(Prepare("asg-1", "process\nprint up-1\nwait-cancel"));
  ASSERT_TRUE(WaitForLogs("up-1"));
  Assign(Prepare("asg-2", "process\nprint up-2\nwait-cancel"));
  ASSERT_TRUE(WaitForLogs("up-2"));
  pb::Assignment slotless = Prepare("asg-3", "process\ndone");
  slotless.set_slots(0);
  Assign(slotless);
  coordinator_.WaitForEnd("asg-3");
  Cancel("asg-1");
  coordinator_.WaitForEnd("asg-1");
  Assign(Prepare("asg-4", "process\nprint up-4\nwait-cancel"));
  ASSERT_TRUE(WaitForLogs("up-4"));
  const Record record = coordinator_.record();
  EXPECT_EQ(record.registers[0].slot_kind(), "cuda");
  std::vector<std::string> seen;
  for (const absl::string_view line : absl::StrSplit(record.logs, '\n')) {
    if (absl::StartsWith(line, "env CUDA_VISIBLE_DEVICES=")) seen.emplace_back(line.substr(25));
  }
  EXPECT_THAT(seen, ElementsAre("3", "1", "", "3"));
}

TEST_F(AgentTest, MoreThanTheFreeSlotsAreRefusedAndFreedOnesAreNot) {
  StartAgent();
  pb::Assignment both = Prepare("asg-1", "print up\nwait-cancel");
  both.set_slots(2);
  Assign(both);
  ASSERT_TRUE(WaitForLogs("up"));
  Assign(Prepare("asg-2", "done"));
  EXPECT_THAT(coordinator_.WaitForEnd("asg-2").message(), HasSubstr("needs 1 slots; 0 of 2"));
  pb::Assignment slotless = Prepare("asg-3", "done");
  slotless.set_slots(0);
  Assign(slotless);
  EXPECT_TRUE(coordinator_.WaitForEnd("asg-3").ok());
  Cancel("asg-1");
  coordinator_.WaitForEnd("asg-1");
  Assign(Prepare("asg-4", "done"));
  EXPECT_TRUE(coordinator_.WaitForEnd("asg-4").ok());
}

TEST_F(AgentTest, AMissingProgramIsNamed) {
  options_.program_folder = folder_.path() / "nowhere";
  StartAgent();
  Assign(Prepare("asg-1", "done"));
  const pb::Ended ended = coordinator_.WaitForEnd("asg-1");
  EXPECT_EQ(ended.cause(), "machine");
  EXPECT_THAT(ended.message(), HasSubstr("nowhere/lathe-prepare: No such file"));
}

TEST_F(AgentTest, ChatsAreServedWithAndWithoutAnAdapter) {
  StartAgent();
  Serve("serve");
  Chat("chat-1", {});
  Chat("chat-2", coordinator_.Tree({{"adapter", coordinator_.AddBlob("weights")}}));
  EXPECT_TRUE(WaitForText("chat-1", "base!"));
  EXPECT_TRUE(WaitForText("chat-2", "tuned!"));
  Cancel("asg-1");
  EXPECT_EQ(coordinator_.WaitForEnd("asg-1").cause(), "cancelled");
}

TEST_F(AgentTest, AnAdapterThatAnEarlierChatMayReadIsLeftAsItIs) {
  StartAgent();
  Serve("serve");
  const v1::FileTree adapter = coordinator_.Tree({{"adapter", coordinator_.AddBlob("weights")}});
  Chat("chat-1", adapter);
  ASSERT_TRUE(WaitForText("chat-1", "tuned!"));
  // Placed again it would be there again.
  const fs::path adapters = folder_.path() / "root/assignments/asg-1/in/adapters";
  ASSERT_TRUE(fs::remove(fs::directory_iterator(adapters)->path() / "adapter"));
  Chat("chat-2", adapter);
  EXPECT_TRUE(WaitForText("chat-2", "missing!"));
}

TEST_F(AgentTest, AChatIsAnsweredWhenItsServerDies) {
  StartAgent();
  Serve("print up\nhang");
  ASSERT_TRUE(WaitForLogs("up"));
  Chat("chat-1", {});
  Cancel("asg-1");
  EXPECT_TRUE(
      coordinator_.WaitFor([](const Record& r) { return r.chat_errors.contains("chat-1"); }));
}

TEST_F(AgentTest, AStopEndsTheChildrenAndTellsTheCoordinator) {
  StartAgent();
  Assign(Prepare("asg-1", "print up\nhang"));
  ASSERT_TRUE(WaitForLogs("up"));
  StopAgent();
  EXPECT_TRUE(run_status_.ok());
  const pb::Ended ended = coordinator_.WaitForEnd("asg-1");
  EXPECT_EQ(ended.cause(), "machine");
  EXPECT_THAT(ended.message(), HasSubstr("this worker is being stopped"));
  EXPECT_EQ(coordinator_.record().num_goodbyes, 1);
  EXPECT_TRUE(AssignmentFoldersAreGone());
}

TEST_F(AgentTest, ARefusedRegistrationEndsTheAgent) {
  coordinator_.Change(
      [](auto& behaviour) { behaviour.refusal = absl::UnauthenticatedError("wrong token"); });
  expect_registration_ = false;
  StartAgent();
  run_.join();
  EXPECT_EQ(run_status_.code(), absl::StatusCode::kUnauthenticated);
  run_ = std::jthread([] {});
}

TEST_F(AgentTest, AnUnreachableCoordinatorIsWaitedFor) {
  coordinator_.Change([](auto& behaviour) { behaviour.reachable = false; });
  expect_registration_ = false;
  StartAgent();
  coordinator_.Change([](auto& behaviour) { behaviour.reachable = true; });
  EXPECT_TRUE(coordinator_.WaitFor([](const Record& r) { return r.registers.size() == 1; }));
}

}  // namespace
}  // namespace lathe::agent
