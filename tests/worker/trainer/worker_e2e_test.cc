// lathe-trainer worker, driven as the agent drives it: a channel on descriptor 3, the rendezvous
// socket of rank 0 on descriptor 4.

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <csignal>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include "common/base/exit_codes.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/spec_proto/job_spec_proto.h"
#include "common/wire/child_channel.h"
#include "lathe/internal/v1/child.pb.h"
#include "tests/testing/shards.h"
#include "tests/testing/subprocess.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
namespace pb = internal::v1;
using ::testing::Contains;
using ::testing::HasSubstr;
using testing::Subprocess;

// A child process and our end of its channel.
struct Child {
  explicit Child(int fd_4 = -1) {
    auto pair = ChildChannel::MakePair();
    EXPECT_TRUE(pair.ok()) << pair.status();
    channel.emplace(std::move(pair->parent));
    process.emplace(std::vector<std::string>{testing::Program("lathe-trainer"), "worker"},
                    pair->child.get(), fd_4);
  }

  // All messages up to Done, Failed or the end.
  std::vector<pb::ChildMessage> ReadAll() {
    std::vector<pb::ChildMessage> all;
    pb::ChildMessage message;
    while (channel->Receive(message).ok()) all.push_back(message);
    return all;
  }

  bool ReadToStep(int64_t step) {
    pb::ChildMessage message;
    while (channel->Receive(message).ok()) {
      if (message.step().step() == step) return true;
    }
    return false;
  }

  std::optional<ChildChannel> channel;
  std::optional<Subprocess> process;
};

struct Listener {
  Listener() : fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(bind(fd.get(), generic, size), 0);
    // As the agent does.
    EXPECT_EQ(listen(fd.get(), 64), 0);
    EXPECT_EQ(getsockname(fd.get(), generic, &size), 0);
    port = ntohs(address.sin_port);
  }
  UniqueFd fd;
  int port = 0;
};

class WorkerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto folder = TempFolder::Make("worker-e2e");
    ASSERT_TRUE(folder.ok()) << folder.status();
    folder_.emplace(*std::move(folder));
    std::vector<testing::OwnedRow> rows;
    for (uint64_t i = 0; i < 20; ++i) rows.push_back(testing::RandomRow(20 + i, 5 + i, i));
    ASSERT_TRUE(MakeFolder(path("shards")).ok());
    testing::WriteShard(rows, path("shards") / "train.shard");
    rows.resize(4);
    testing::WriteShard(rows, path("shards") / "validation.shard");
    spec_.model = "tiny";
    spec_.dataset = "rows";
    spec_.epochs = 2;
    spec_.batch_size = 5;
  }

  fs::path path(const std::string& name) const { return folder_->path() / name; }

  pb::ParentMessage TrainMessage(int rank, int world_size) const {
    pb::ParentMessage message;
    pb::Task& task = *message.mutable_task();
    task.set_job_id("job-1");
    task.set_attempt(3);
    task.set_threads(1);
    pb::TrainTask& train = *task.mutable_train();
    train.set_model_dir(fs::absolute("tests/data/tiny-llama").string());
    train.set_shard_dir(path("shards").string());
    train.set_output_dir(path("out-" + std::to_string(rank)).string());
    *train.mutable_spec() = ToProto(spec_);
    train.set_rank(rank);
    train.set_world_size(world_size);
    train.set_rendezvous_fd(rank == 0 ? 4 : -1);
    return message;
  }

  // Two ranks of one training.
  void StartTwo() {
    const Listener listener;
    first_.emplace(listener.fd.get());
    second_.emplace();
    ASSERT_TRUE(first_->channel->Send(TrainMessage(0, 2)).ok());
    ASSERT_TRUE(second_->channel->Send(TrainMessage(1, 2)).ok());
    pb::ParentMessage rendezvous;
    rendezvous.mutable_rendezvous()->set_host("127.0.0.1");
    rendezvous.mutable_rendezvous()->set_port(listener.port);
    ASSERT_TRUE(second_->channel->Send(rendezvous).ok());
  }

  std::optional<TempFolder> folder_;
  JobSpec spec_;
  std::optional<Child> first_;
  std::optional<Child> second_;
};

TEST_F(WorkerTest, TwoRanksTrainTogetherAndReport) {
  StartTwo();
  const std::vector<pb::ChildMessage> first = first_->ReadAll();
  const std::vector<pb::ChildMessage> second = second_->ReadAll();
  EXPECT_EQ(first_->process->Wait(), 0) << first_->process->output();
  EXPECT_EQ(second_->process->Wait(), 0) << second_->process->output();
  ASSERT_TRUE(!first.empty() && first.back().has_done()) << first.back().ShortDebugString();
  ASSERT_TRUE(!second.empty() && second.back().has_done()) << second.back().ShortDebugString();
  std::vector<std::string> phases;
  std::vector<int64_t> steps;
  int evaluations = 0;
  for (const pb::ChildMessage& message : first) {
    if (message.has_phase()) phases.push_back(message.phase().name());
    if (message.has_step()) steps.push_back(message.step().step());
    evaluations += message.has_evaluation() ? 1 : 0;
  }
  EXPECT_THAT(steps, ::testing::ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
  EXPECT_EQ(evaluations, 2);
  for (const char* phase : {"load", "rendezvous", "evaluate", "train", "reduce", "export"}) {
    EXPECT_THAT(phases, Contains(phase));
  }
  for (const pb::ChildMessage& message : second) EXPECT_FALSE(message.has_step());
  const std::string sha256 = first.back().done().adapter_sha256();
  EXPECT_EQ(sha256, second.back().done().adapter_sha256());
  EXPECT_GT(first.back().done().trained_parameters(), 0);
  const auto file = Sha256OfFile(path("out-0") / "adapter_model.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*file, sha256);
  EXPECT_FALSE(fs::exists(path("out-1")));
}

TEST_F(WorkerTest, CancelEndsBothRanksWithExitCodeZeroAndAReport) {
  spec_.epochs = 1000;
  StartTwo();
  ASSERT_TRUE(first_->ReadToStep(2)) << first_->process->output();
  pb::ParentMessage cancel;
  cancel.mutable_cancel();
  // The other rank learns of it from the first.
  ASSERT_TRUE(first_->channel->Send(cancel).ok());
  const std::vector<pb::ChildMessage> first = first_->ReadAll();
  const std::vector<pb::ChildMessage> second = second_->ReadAll();
  EXPECT_EQ(first_->process->Wait(), 0) << first_->process->output();
  EXPECT_EQ(second_->process->Wait(), 0) << second_->process->output();
  EXPECT_EQ(first.back().failed().code(), 1) << first.back().ShortDebugString();
  EXPECT_EQ(second.back().failed().code(), 1) << second.back().ShortDebugString();
  EXPECT_FALSE(fs::exists(path("out-0")));
}

TEST_F(WorkerTest, ASignalMakesItPrintWhereItIsAndGoOn) {
  StartTwo();
  ASSERT_TRUE(first_->ReadToStep(1)) << first_->process->output();
  ASSERT_EQ(kill(first_->process->pid(), SIGUSR1), 0);
  const std::vector<pb::ChildMessage> first = first_->ReadAll();
  second_->ReadAll();
  EXPECT_EQ(first_->process->Wait(), 0) << first_->process->output();
  EXPECT_TRUE(first.back().has_done());
  EXPECT_THAT(first_->process->output(), HasSubstr("stack: lathe::RunWorkerCommand()"));
}

TEST_F(WorkerTest, SurvivorOfAKilledRankExitsWith75) {
  spec_.epochs = 1000;
  StartTwo();
  ASSERT_TRUE(first_->ReadToStep(2)) << first_->process->output();
  ASSERT_EQ(kill(second_->process->pid(), SIGKILL), 0);
  const std::vector<pb::ChildMessage> first = first_->ReadAll();
  const int status = first_->process->Wait();
  EXPECT_EQ(CauseOfExit(status), FailureCause::kPeerLost) << DescribeExit(status);
  EXPECT_EQ(first.back().failed().code(), 14) << first.back().ShortDebugString();
}

TEST_F(WorkerTest, EndsWhenTheAgentIsGone) {
  spec_.epochs = 1000;
  Child child;
  pb::ParentMessage alone = TrainMessage(0, 1);
  alone.mutable_task()->mutable_train()->set_rendezvous_fd(-1);
  ASSERT_TRUE(child.channel->Send(alone).ok());
  ASSERT_TRUE(child.ReadToStep(1)) << child.process->output();
  child.channel.reset();
  const int status = child.process->Wait();
  EXPECT_EQ(CauseOfExit(status), FailureCause::kPeerLost) << DescribeExit(status);
}

TEST_F(WorkerTest, BrokenModelIsTheUsersFault) {
  Child child;
  pb::ParentMessage message = TrainMessage(0, 1);
  message.mutable_task()->mutable_train()->set_model_dir(path("shards").string());
  ASSERT_TRUE(child.channel->Send(message).ok());
  const std::vector<pb::ChildMessage> all = child.ReadAll();
  EXPECT_EQ(CauseOfExit(child.process->Wait()), FailureCause::kUser) << child.process->output();
  EXPECT_FALSE(all.back().failed().message().empty());
}

class ServeTest : public WorkerTest {
 protected:
  void SetUp() override {
    WorkerTest::SetUp();
    child_.emplace();
    pb::ParentMessage message;
    message.mutable_task()->set_threads(1);
    message.mutable_task()->mutable_serve()->set_model_dir(
        fs::absolute("tests/data/tiny-llama").string());
    ASSERT_TRUE(child_->channel->Send(message).ok());
  }

  static pb::ParentMessage Question(const std::string& id, const std::string& adapter_dir = "") {
    pb::ParentMessage message;
    pb::Generate& question = *message.mutable_generate();
    question.set_request_id(id);
    question.set_adapter_dir(adapter_dir);
    question.mutable_request()->set_max_tokens(12);
    v1::ChatMessage& turn = *question.mutable_request()->add_messages();
    turn.set_role("user");
    turn.set_content("What do you sell?");
    return message;
  }

  struct Answer {
    std::string text;
    pb::GeneratedText last;
  };

  // Up to the message that ends the answer.
  Answer ReadAnswer(const std::string& id) {
    Answer answer;
    pb::ChildMessage message;
    while (child_->channel->Receive(message).ok()) {
      if (!message.has_text()) continue;
      EXPECT_EQ(message.text().request_id(), id);
      answer.text += message.text().response().text();
      answer.last = message.text();
      if (answer.last.error_code() != 0 || !answer.last.response().finish_reason().empty()) break;
    }
    return answer;
  }

  Answer Ask(const pb::ParentMessage& question) {
    EXPECT_TRUE(child_->channel->Send(question).ok());
    return ReadAnswer(question.generate().request_id());
  }

  std::optional<Child> child_;
};

TEST_F(ServeTest, AnswersQuestionsWithTheAdapterThatIsAskedFor) {
  const std::string adapter = fs::absolute("tests/data/tiny-adapter").string();
  const Answer base = Ask(Question("1"));
  EXPECT_EQ(base.last.error(), "");
  EXPECT_EQ(base.last.response().completion_tokens(), 12);
  EXPECT_EQ(base.last.response().finish_reason(), "length");
  EXPECT_GT(base.last.response().prompt_tokens(), 5);
  EXPECT_FALSE(base.text.empty());
  EXPECT_NE(Ask(Question("2", adapter)).text, base.text);
  EXPECT_EQ(Ask(Question("3")).text, base.text);
  child_->channel.reset();
  EXPECT_EQ(child_->process->Wait(), 0) << child_->process->output();
}

// The second question does not wait for the end of the first, and each gets its own answer.
TEST_F(ServeTest, QuestionsAtTheSameTimeAreAnsweredTogether) {
  const std::string adapter = fs::absolute("tests/data/tiny-adapter").string();
  pb::ParentMessage first = Question("first", adapter);
  first.mutable_generate()->mutable_request()->set_max_tokens(300);
  const pb::ParentMessage second = Question("second");
  ASSERT_TRUE(child_->channel->Send(first).ok());
  ASSERT_TRUE(child_->channel->Send(second).ok());
  std::map<std::string, std::string> texts;
  std::vector<std::string> ended;
  pb::ChildMessage message;
  while (ended.size() < 2 && child_->channel->Receive(message).ok()) {
    if (!message.has_text()) continue;
    EXPECT_EQ(message.text().error(), "");
    texts[message.text().request_id()] += message.text().response().text();
    if (message.text().response().finish_reason().empty()) continue;
    ended.push_back(message.text().request_id());
  }
  EXPECT_THAT(ended, ::testing::ElementsAre("second", "first"));
  EXPECT_EQ(Ask(second).text, texts["second"]);
  EXPECT_EQ(Ask(first).text, texts["first"]);
}

TEST_F(ServeTest, BadQuestionIsAnsweredWithItsErrorAndTheNextOneIsTaken) {
  pb::ParentMessage hot = Question("hot");
  hot.mutable_generate()->mutable_request()->set_temperature(9);
  EXPECT_EQ(Ask(hot).last.error(), "temperature is 9; must be in [0, 5]");
  pb::ParentMessage nobody = Question("nobody");
  nobody.mutable_generate()->mutable_request()->mutable_messages(0)->set_role("boss");
  EXPECT_EQ(Ask(nobody).last.error_code(), 3);
  EXPECT_NE(Ask(Question("gone", path("no-adapter").string())).last.error_code(), 0);
  pb::ParentMessage endless = Question("endless");
  endless.mutable_generate()->mutable_request()->mutable_messages(0)->set_content(
      std::string(5000, 'x'));
  EXPECT_EQ(Ask(endless).last.error_code(), 3);
  EXPECT_EQ(Ask(Question("good")).last.error(), "");
}

TEST_F(ServeTest, AnswerThatIsNoLongerWantedEnds) {
  pb::ParentMessage longest = Question("long");
  longest.mutable_generate()->mutable_request()->set_max_tokens(400);
  pb::ParentMessage cancel;
  cancel.mutable_cancel_generate()->set_request_id("long");
  ASSERT_TRUE(child_->channel->Send(longest).ok());
  ASSERT_TRUE(child_->channel->Send(cancel).ok());
  EXPECT_EQ(ReadAnswer("long").last.error_code(), 1);
  EXPECT_EQ(Ask(Question("next")).last.error(), "");
}

}  // namespace
}  // namespace lathe
