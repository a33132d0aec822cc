#include "worker/agent/ending.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace lathe::agent
