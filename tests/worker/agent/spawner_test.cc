#include "worker/agent/spawner.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>

#include "common/base/exit_codes.h"

namespace lathe::agent {
namespace {

SpawnRequest Shell(const std::string& script, int output_fd) {
  SpawnRequest request;
  request.program = "/bin/sh";
  request.arguments = {"-c", script};
  request.environment = {"PATH=/usr/bin:/bin"};
  request.working_folder = "/";
  request.output_fd = output_fd;
  return request;
}

UniqueFd Null() { return UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC)); }

TEST(SpawnerTest, TheExitIsReportedWithThePeakMemory) {
  Spawner spawner;
  const UniqueFd null = Null();
  auto child = spawner.Spawn(Shell("exit 75", null.get()));
  ASSERT_TRUE(child.ok()) << child.status();
  const ExitReport report = child->Reap();
  EXPECT_EQ(WEXITSTATUS(report.wait_status), 75);
  EXPECT_GT(report.peak_memory_bytes, 100 << 10);
}

TEST(SpawnerTest, AProgramThatCannotStartIsNamedAndLeavesNoZombie) {
  Spawner spawner;
  const UniqueFd null = Null();
  SpawnRequest request = Shell("", null.get());
  request.program = "/nowhere/program";
  EXPECT_EQ(spawner.Spawn(request).status().code(), absl::StatusCode::kNotFound);
  request = Shell("", null.get());
  request.working_folder = "/nowhere";
  EXPECT_FALSE(spawner.Spawn(request).ok());
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(SpawnerTest, SignalsThatWeIgnoreAreNotIgnoredByTheChild) {
  signal(SIGPIPE, SIG_IGN);
  Spawner spawner;
  const UniqueFd null = Null();
  auto child = spawner.Spawn(Shell("kill -PIPE $$; exit 0", null.get()));
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(WTERMSIG(child->Reap().wait_status), SIGPIPE);
}

TEST(SpawnerTest, AnAbandonedChildIsKilled) {
  Spawner spawner;
  const UniqueFd null = Null();
  UniqueFd pidfd;
  {
    auto child = spawner.Spawn(Shell("sleep 1000", null.get()));
    ASSERT_TRUE(child.ok());
    pidfd = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, child->pid(), 0)));
  }
  pollfd wait_for{pidfd.get(), POLLIN, 0};
  EXPECT_EQ(poll(&wait_for, 1, 10000), 1);
}

// kill -9 of an agent: nobody is left to clean up but the kernel.
TEST(SpawnerTest, ChildrenDieWithTheProcessThatStartedThem) {
  std::array<int, 2> pipe_fds{};
  ASSERT_EQ(pipe2(pipe_fds.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(pipe_fds[0]);
  const pid_t agent = fork();
  if (agent == 0) {
    Spawner spawner;
    const UniqueFd null = Null();
    auto child = spawner.Spawn(Shell("sleep 1000", null.get()));
    const pid_t pid = child.ok() ? child->pid() : -1;
    if (write(pipe_fds[1], &pid, sizeof pid) != sizeof pid) _exit(1);
    for (;;) pause();
  }
  close(pipe_fds[1]);
  pid_t child = -1;
  ASSERT_EQ(read(read_end.get(), &child, sizeof child), static_cast<ssize_t>(sizeof child));
  ASSERT_GT(child, 0);
  const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  kill(agent, SIGKILL);
  waitpid(agent, nullptr, 0);
  pollfd wait_for{pidfd.get(), POLLIN, 0};
  EXPECT_EQ(poll(&wait_for, 1, 10000), 1);
}

}  // namespace
}  // namespace lathe::agent
