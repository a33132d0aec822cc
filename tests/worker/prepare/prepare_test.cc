// The real lathe-prepare, by hand and as an agent starts it.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/exit_codes.h"
#include "common/base/file.h"
#include "common/wire/child_channel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lathe/internal/v1/child.pb.h"
#include "nlohmann/json.hpp"
#include "worker/data/shard.h"

namespace lathe {
namespace {

using internal::v1::ChildMessage;
using internal::v1::ParentMessage;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

const char* const kModel = "tests/data/tiny-llama";
const char* const kExample = "examples/support-desk.jsonl";

std::string Binary() { return absl::StrCat(std::getenv("LATHE_BIN_DIR"), "/lathe-prepare"); }

// `channel` becomes descriptor 3 of the child; -1: it has none.
pid_t Start(const std::vector<std::string>& arguments, const fs::path& out, const fs::path& err,
            int channel) {
  std::vector<std::string> words = {Binary()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid != 0) return pid;
  dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
  dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
  if (channel < 0) close(kChildChannelFd);
  if (channel >= 0) dup2(channel, kChildChannelFd);
  if (channel == kChildChannelFd) fcntl(channel, F_SETFD, 0);  // dup2 onto itself changes nothing.
  execv(argv[0], argv.data());
  _exit(127);
}

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};

class PrepareTest : public ::testing::Test {
 protected:
  PrepareTest() : folder_(*TempFolder::Make("prepare")) {}

  std::string Path(const std::string& name) const { return (folder_.path() / name).string(); }

  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name), std::ios::binary) << text;
    return Path(name);
  }

  Outcome Run(const std::vector<std::string>& arguments) const {
    const pid_t pid = Start(arguments, Path("stdout"), Path("stderr"), -1);
    int status = 0;
    waitpid(pid, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, *ReadFile(Path("stdout")),
            *ReadFile(Path("stderr"))};
  }

  TempFolder folder_;
};

TEST_F(PrepareTest, CheckPrintsAReport) {
  const Outcome text = Run({"check", kExample});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("forms: alpaca "));
  const Outcome json = Run({"check", kExample, "--model", kModel, "--json"});
  ASSERT_EQ(json.exit_code, 0) << json.err;
  const auto report = nlohmann::json::parse(json.out);
  EXPECT_GE(report["good_rows"].get<int>(), 240);
  EXPECT_GT(report["trained_tokens"].get<int>(), 0);
}

TEST_F(PrepareTest, CheckNamesBadRowsAndFailsIfNoRowIsGood) {
  const Outcome some =
      Run({"check", Write("some", "{\"instruction\":\"a\",\"output\":\"b\"}\n{\"x\xFF\":1}\n")});
  EXPECT_EQ(some.exit_code, 0);
  EXPECT_THAT(some.out, HasSubstr("error: line 2 (row 1): bad_utf8: byte 4 is 0xff"));
  const Outcome none = Run({"check", Write("none", "[1,2]")});
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_THAT(none.err, HasSubstr("none of 2 rows can be used"));
}

TEST_F(PrepareTest, FailuresAreOneLine) {
  const std::vector<std::vector<std::string>> commands = {
      {"check", Path("missing")},
      {"check", Write("empty", "")},
      {"check", kExample, "--format", "csv"},
      {"check", kExample, "--set", "max_length=1"},
      {"check", kExample, "--set", "max_length"},
      {"check", kExample, "--model", Path("missing")},
      {"preview", kExample, "--model", kModel, "--row", "9999"},
      {"prepare", Write("bad", "{}"), "--model", kModel, "--out", Path("shards")},
      {"import", Path("missing"), "--out", Path("imported")}};
  for (const auto& command : commands) {
    const Outcome outcome = Run(command);
    EXPECT_EQ(outcome.exit_code, 1) << command[0] << " " << command[1];
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  }
  EXPECT_FALSE(fs::exists(Path("shards")));
  EXPECT_FALSE(fs::exists(Path("imported")));
}

TEST_F(PrepareTest, WrongUsageIsTwo) {
  EXPECT_EQ(Run({}).exit_code, 2);
  EXPECT_EQ(Run({"check"}).exit_code, 2);
  EXPECT_EQ(Run({"preview", kExample}).exit_code, 2);
  EXPECT_EQ(Run({"nonsense"}).exit_code, 2);
  EXPECT_EQ(Run({"worker"}).exit_code, 2);
  EXPECT_EQ(Run({"--help"}).exit_code, 0);
}

TEST_F(PrepareTest, PreviewAgreesWithThePreparedShard) {
  const Outcome prepared = Run({"prepare", "--set", "max_length=256", "--set", "seed=3", kExample,
                                "--model", kModel, "--out", Path("shards")});
  ASSERT_EQ(prepared.exit_code, 0) << prepared.err;
  EXPECT_TRUE(fs::exists(Path("shards/report.json")));
  const Shard shard = *Shard::Open(Path("shards/train.shard"));
  ASSERT_GT(shard.num_rows(), 0U);
  const TokenRow row = shard.row(shard.num_rows() - 1);
  const Outcome preview = Run({"preview", kExample, "--model", kModel, "--row",
                               absl::StrCat(row.row), "--set", "max_length=256", "--json"});
  ASSERT_EQ(preview.exit_code, 0) << preview.err;
  EXPECT_EQ(nlohmann::json::parse(preview.out)["row_sha256"], RowSha256(row));
}

TEST_F(PrepareTest, ImportWritesAFolderThatCheckTakes) {
  const Outcome imported = Run({"import", kModel, "--out", Path("imported")});
  ASSERT_EQ(imported.exit_code, 0) << imported.err;
  EXPECT_THAT(imported.out, HasSubstr("imported llama"));
  EXPECT_EQ(Run({"check", kExample, "--model", Path("imported")}).exit_code, 0);
}

// An agent's side of one child.
class Child {
 public:
  explicit Child(const fs::path& folder) {
    ChildChannel::Pair pair = *ChildChannel::MakePair();
    pid_ = Start({"worker"}, folder / "child.out", folder / "child.err", pair.child.get());
    channel_.emplace(std::move(pair.parent));
  }
  ~Child() {
    if (pid_ < 0) return;
    kill(pid_, SIGKILL);
    Wait();
  }

  ChildChannel& channel() { return *channel_; }
  void HangUp() { channel_.reset(); }

  // Until the child is done: its messages, the last of which is Done or Failed.
  std::vector<ChildMessage> ReadAll() {
    std::vector<ChildMessage> messages(1);
    while (channel_->Receive(messages.back()).ok()) messages.emplace_back();
    messages.pop_back();
    return messages;
  }

  // The exit code, or the negative signal.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
  std::optional<ChildChannel> channel_;
};

class ChildTest : public PrepareTest {
 protected:
  ChildTest() : child_(folder_.path()) {}

  // The child's last message.
  ChildMessage RunTask(const ParentMessage& task) {
    EXPECT_TRUE(child_.channel().Send(task).ok());
    const std::vector<ChildMessage> messages = child_.ReadAll();
    for (const ChildMessage& message : messages)
      if (message.has_phase()) phases_.push_back(message.phase().name());
    return messages.empty() ? ChildMessage() : messages.back();
  }

  Child child_;
  std::vector<std::string> phases_;
};

TEST_F(ChildTest, PreparesAndSaysDone) {
  ParentMessage message;
  internal::v1::PrepareTask& task = *message.mutable_task()->mutable_prepare();
  task.set_data_path(kExample);
  task.set_model_dir(kModel);
  task.set_output_dir(Path("shards"));
  message.mutable_task()->set_threads(2);
  const ChildMessage last = RunTask(message);
  EXPECT_EQ(child_.Wait(), kExitOk);
  EXPECT_GT(last.done().report().trained_tokens(), 0) << last.ShortDebugString();
  EXPECT_EQ(last.done().template_sha256().size(), 64U);
  EXPECT_THAT(phases_, ElementsAre("start", "load", "read", "tokenize"));
  EXPECT_TRUE(Shard::Open(Path("shards/train.shard")).ok());
}

TEST_F(ChildTest, ChecksWithoutAModel) {
  ParentMessage message;
  message.mutable_task()->mutable_check()->set_data_path(kExample);
  const ChildMessage last = RunTask(message);
  EXPECT_EQ(child_.Wait(), kExitOk);
  EXPECT_GE(last.done().report().good_rows(), 240);
  EXPECT_EQ(last.done().report().total_tokens(), 0);
}

TEST_F(ChildTest, Previews) {
  ParentMessage message;
  internal::v1::PreviewTask& task = *message.mutable_task()->mutable_preview();
  task.set_data_path(kExample);
  task.set_model_dir(kModel);
  task.set_row(1);
  const ChildMessage last = RunTask(message);
  EXPECT_EQ(child_.Wait(), kExitOk);
  EXPECT_EQ(last.done().preview().row(), 1);
  EXPECT_EQ(last.done().preview().line(), 2);
  EXPECT_GT(last.done().preview().tokens_size(), 10);
}

TEST_F(ChildTest, Imports) {
  ParentMessage message;
  internal::v1::ImportTask& task = *message.mutable_task()->mutable_import();
  task.set_source_dir(kModel);
  task.set_output_dir(Path("imported"));
  const ChildMessage last = RunTask(message);
  EXPECT_EQ(child_.Wait(), kExitOk);
  EXPECT_EQ(last.done().architecture(), "llama") << last.ShortDebugString();
  EXPECT_GT(last.done().parameters(), 0);
  EXPECT_EQ(last.done().template_sha256().size(), 64U);
}

TEST_F(ChildTest, SaysWhatFailed) {
  ParentMessage message;
  message.mutable_task()->mutable_check()->set_data_path(Write("empty", ""));
  const ChildMessage last = RunTask(message);
  EXPECT_EQ(child_.Wait(), kExitUserError);
  EXPECT_EQ(last.failed().code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(last.failed().message(), HasSubstr("has no rows"));
}

TEST_F(ChildTest, RefusesTasksOfTheTrainer) {
  ParentMessage message;
  message.mutable_task()->mutable_train();
  EXPECT_THAT(RunTask(message).failed().message(), HasSubstr("does import, check"));
  EXPECT_EQ(child_.Wait(), kExitUserError);
}

TEST_F(ChildTest, RefusesAFirstMessageThatIsNoTask) {
  ParentMessage message;
  message.mutable_cancel();
  EXPECT_THAT(RunTask(message).failed().message(), HasSubstr("must be a task"));
  EXPECT_EQ(child_.Wait(), kExitUserError);
}

// A child in the middle of work that takes far longer than the test.
class BusyChildTest : public ChildTest {
 protected:
  void SetUp() override {
    std::ofstream file(Path("large"));
    const std::string answer(2000, 'x');
    for (int i = 0; i < 60'000; ++i)
      file << R"({"instruction":"q)" << i << R"(","output":")" << answer << "\"}\n";
    file.close();
    ParentMessage message;
    internal::v1::PrepareTask& task = *message.mutable_task()->mutable_prepare();
    task.set_data_path(Path("large"));
    task.set_model_dir(kModel);
    task.set_output_dir(Path("shards"));
    ASSERT_TRUE(child_.channel().Send(message).ok());
    ChildMessage phase;
    while (phase.phase().name() != "read") ASSERT_TRUE(child_.channel().Receive(phase).ok());
  }
};

TEST_F(BusyChildTest, CancelEndsItWithoutBlame) {
  ParentMessage cancel;
  cancel.mutable_cancel();
  EXPECT_EQ(RunTask(cancel).failed().code(), static_cast<int>(absl::StatusCode::kCancelled));
  EXPECT_EQ(child_.Wait(), kExitOk);
  EXPECT_FALSE(fs::exists(Path("shards")));
}

TEST_F(BusyChildTest, EndsWhenTheAgentDoes) {
  child_.HangUp();
  EXPECT_EQ(child_.Wait(), kExitPeerLost);
  EXPECT_FALSE(fs::exists(Path("shards")));
}

}  // namespace
}  // namespace lathe
