#include "worker/agent/ending.h"

#include <gtest/gtest.h>

#include <csignal>

namespace lathe::agent {
namespace {

TEST(JudgeTest, AMessageNamesTheUsersFileAndNotTheWorkersFolder) {
  ChildStory story;
  story.source = "import on worker-1";
  story.folder = "/root/assignments/asg-1";
  story.exit.wait_status = 64 << 8;
  story.failed.emplace().set_message("/root/assignments/asg-1/in/source/cut.gguf: is cut");
  const pb::Ended ended = Judge(story);
  EXPECT_EQ(ended.message(), "import on worker-1: cut.gguf: is cut");
  EXPECT_EQ(ended.cause(), "user");
}

TEST(JudgeTest, AKilledChildIsTheMachinesFaultWhateverItSaidBefore) {
  ChildStory story;
  story.source = "train rank 1 on worker-2";
  story.exit.wait_status = 9;
  story.failed.emplace().set_message("peer lost");
  const pb::Ended ended = Judge(story);
  EXPECT_EQ(ended.cause(), "machine");
  EXPECT_NE(ended.message().find("killed by signal 9"), std::string::npos);
}

// What ExplainLostMappings (common/base/mapped_file.h) makes of a child whose file became shorter.
TEST(JudgeTest, AFileThatShrinksWhileMappedIsNamedAndTheMachinesFault) {
  ChildStory story;
  story.source = "train rank 0 on worker-1";
  story.folder = "/root/assignments/asg-1";
  story.exit.wait_status = SIGBUS;
  story.last_line =
      "lathe-trainer: /root/assignments/asg-1/in/model/model.safetensors: became shorter";
  const pb::Ended ended = Judge(story);
  EXPECT_EQ(ended.cause(), "machine");
  EXPECT_NE(
      ended.message().find("last line: lathe-trainer: model/model.safetensors: became shorter"),
      std::string::npos)
      << ended.message();
}

}  // namespace
}  // namespace lathe::agent
