#include "worker/trainer/child_processes.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "common/base/status.h"

namespace lathe {
namespace {

// SIGINT and SIGTERM as a readable descriptor; the old mask comes back with the object.
class SignalWatch {
 public:
  SignalWatch() {
    sigset_t watched;
    sigemptyset(&watched);
    sigaddset(&watched, SIGINT);
    sigaddset(&watched, SIGTERM);
    sigprocmask(SIG_BLOCK, &watched, &old_mask_);
    fd_ = UniqueFd(signalfd(-1, &watched, SFD_CLOEXEC));
  }
  ~SignalWatch() { sigprocmask(SIG_SETMASK, &old_mask_, nullptr); }
  int fd() const { return fd_.get(); }
  // A signal that stays pending would end the process as soon as the old mask is back.
  void Take() const {
    signalfd_siginfo info;
    while (read(fd_.get(), &info, sizeof info) < 0 && errno == EINTR) continue;
  }

 private:
  sigset_t old_mask_;
  UniqueFd fd_;
};

// After fork: async-signal-safe calls only.
[[noreturn]] void BecomeChild(const char* program, pid_t parent, int inherited_fd,
                              char* const* argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // It died before the line above.
  if (inherited_fd >= 0) fcntl(inherited_fd, F_SETFD, 0);
  execv(program, argv);
  _exit(127);
}

int PollTimeout(absl::Time deadline) {
  if (deadline == absl::InfiniteFuture()) return -1;
  return static_cast<int>(std::max<int64_t>(0, absl::ToInt64Milliseconds(deadline - absl::Now())));
}

}  // namespace

ChildProcesses::~ChildProcesses() { KillAll(); }

absl::Status ChildProcesses::Start(const std::vector<std::string>& arguments, int inherited_fd) {
  std::vector<std::string> words = {"lathe-trainer"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) BecomeChild(program_.c_str(), parent, inherited_fd, argv.data());
  if (pid < 0) return ErrnoToStatus(errno, "lathe-trainer: fork");
  Child& child = children_.emplace_back();
  child.pid = pid;
  child.pidfd = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!child.pidfd.valid()) return ErrnoToStatus(errno, "lathe-trainer: pidfd_open");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int>> ChildProcesses::WaitAll(absl::Duration grace) {
  const SignalWatch signals;
  absl::Time deadline = absl::InfiniteFuture();
  while (AnyRuns()) {
    std::vector<pollfd> polled = {{.fd = signals.fd(), .events = POLLIN, .revents = 0}};
    // A descriptor of -1 is skipped by poll.
    for (const Child& child : children_) {
      polled.push_back(
          {.fd = child.ended ? -1 : child.pidfd.get(), .events = POLLIN, .revents = 0});
    }
    const int ready = poll(polled.data(), polled.size(), PollTimeout(deadline));
    if (ready < 0 && errno != EINTR) return ErrnoToStatus(errno, "lathe-trainer: poll");
    if (ready == 0) KillAll();
    if (ready <= 0) continue;
    if (polled[0].revents != 0) {
      signals.Take();
      KillAll();
      return absl::CancelledError("stopped by a signal");
    }
    for (size_t i = 0; i < children_.size(); ++i) {
      if (polled[i + 1].revents != 0) Reap(children_[i]);
    }
    if (AnyFailed()) deadline = std::min(deadline, absl::Now() + grace);
  }
  std::vector<int> statuses;
  for (const Child& child : children_) statuses.push_back(child.wait_status);
  return statuses;
}

void ChildProcesses::Reap(Child& child) {
  if (child.ended) return;
  while (waitpid(child.pid, &child.wait_status, 0) < 0 && errno == EINTR) continue;
  child.ended = true;
}

void ChildProcesses::KillAll() {
  for (Child& child : children_) {
    if (!child.ended) kill(child.pid, SIGKILL);
  }
  for (Child& child : children_) Reap(child);
}

bool ChildProcesses::AnyRuns() const {
  return std::any_of(children_.begin(), children_.end(),
                     [](const Child& child) { return !child.ended; });
}

bool ChildProcesses::AnyFailed() const {
  return std::any_of(children_.begin(), children_.end(),
                     [](const Child& child) { return child.ended && child.wait_status != 0; });
}

}  // namespace lathe
