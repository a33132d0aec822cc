#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>

#include "common/base/file.h"
#include "common/fault/fault.h"
#include "gtest/gtest.h"

namespace lathe::fault {
namespace {

// Runs `body` in a process of its own, which reads the plan for the first time there.
class ArmedTest : public ::testing::Test {
 protected:
  ArmedTest() : folder_(TempFolder::Make("fault").value()) {}

  // Passes no point: the plan must not be read in this process.
  void Arm() { std::ofstream(folder_.path() / "armed") << "train"; }

  int WaitStatusOf(const char* plan, const std::function<int()>& body) {
    const pid_t pid = fork();
    if (pid == 0) {
      setenv("LATHE_FAULT", plan, 1);
      setenv("LATHE_FAULT_DIR", folder_.path().c_str(), 1);
      _exit(body());
    }
    int status = 0;
    waitpid(pid, &status, WUNTRACED);
    last_ = pid;
    return status;
  }

  std::string Fired() { return ReadFile(folder_.path() / "fired").value_or(""); }

  TempFolder folder_;
  pid_t last_ = 0;
};

TEST_F(ArmedTest, TheNthPassOfThePointKillsTheProcessAndLeavesItsName) {
  Arm();
  const int status = WaitStatusOf("p:kill@2", [] {
    Pass("other");
    Pass("p");
    Pass("p");
    return 0;
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  EXPECT_EQ(Fired(), std::to_string(last_) + " p:kill@2\n");
}

TEST_F(ArmedTest, NothingHappensAndNothingIsCountedBeforeItIsArmed) {
  const int status = WaitStatusOf("p:error@2", [this] {
    if (!Hit("p").ok()) return 1;
    Arm();
    if (!Hit("p").ok()) return 2;
    return absl::IsInternal(Hit("p")) ? 0 : 3;
  });
  EXPECT_EQ(status, 0);
}

TEST_F(ArmedTest, OnlyOneProcessFires) {
  Arm();
  const auto hits = [] { return Hit("p").ok() ? 0 : 7; };
  EXPECT_EQ(WEXITSTATUS(WaitStatusOf("p:nospace", hits)), 7);
  EXPECT_EQ(WEXITSTATUS(WaitStatusOf("p:nospace", hits)), 0);
}

TEST_F(ArmedTest, AnErrorHasTheCodeOfThePlan) {
  Arm();
  EXPECT_EQ(WaitStatusOf("p:error=14", [] { return absl::IsUnavailable(Hit("p")) ? 0 : 1; }), 0);
}

TEST_F(ArmedTest, AStoppedProcessGoesOnWhenItIsLetTo) {
  Arm();
  const int status = WaitStatusOf("p:stop", [] { return Hit("p").ok() ? 5 : 1; });
  ASSERT_TRUE(WIFSTOPPED(status)) << status;
  kill(last_, SIGCONT);
  int after = 0;
  waitpid(last_, &after, 0);
  EXPECT_EQ(WEXITSTATUS(after), 5);
}

TEST_F(ArmedTest, APlanThatCannotBeReadEndsTheProcess) {
  EXPECT_EQ(WEXITSTATUS(WaitStatusOf("nonsense", [] { return Hit("p").ok() ? 0 : 1; })), 2);
}

TEST_F(ArmedTest, AChildIsGivenThePlan) {
  const int status = WaitStatusOf("p:kill", [] {
    const auto environment = Environment();
    return environment.size() == 2 && environment[0] == "LATHE_FAULT=p:kill" ? 0 : 1;
  });
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace lathe::fault
