#include "worker/agent/spawner.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace lathe::agent {
namespace {

constexpr int kFirstFreeFd = 64;  // Sources are moved up here before they are put in their places.

// All that the child needs between fork and exec, made before the fork: after it only
// async-signal-safe calls are allowed, so nothing may allocate or lock.
struct ChildPlan {
  const char* program;
  char* const* arguments;
  char* const* environment;
  const char* working_folder;
  const int* sources;  // sources[i] becomes descriptor i.
  int num_sources;
  int error_fd;  // Gets errno if the child cannot become the program.
  pid_t parent;
};

[[noreturn]] void FailInChild(int error_fd) {
  const int error = errno;
  const ssize_t ignored = write(error_fd, &error, sizeof error);
  static_cast<void>(ignored);
  _exit(127);
}

void ResetSignals() {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) sigaction(signal, &action, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

// Puts sources[i] at i and the error descriptor behind them; closes everything else.
int ArrangeDescriptors(const ChildPlan& plan) {
  int moved[kFirstFreeFd];
  for (int i = 0; i < plan.num_sources; ++i) {
    moved[i] = fcntl(plan.sources[i], F_DUPFD, kFirstFreeFd);
    if (moved[i] < 0) FailInChild(plan.error_fd);
  }
  int error_fd = fcntl(plan.error_fd, F_DUPFD, kFirstFreeFd);
  if (error_fd < 0) FailInChild(plan.error_fd);
  for (int i = 0; i < plan.num_sources; ++i) {
    if (dup2(moved[i], i) < 0) FailInChild(error_fd);
  }
  if (dup3(error_fd, plan.num_sources, O_CLOEXEC) < 0) FailInChild(error_fd);
  error_fd = plan.num_sources;
  if (close_range(static_cast<unsigned>(error_fd) + 1, ~0U, 0) != 0) FailInChild(error_fd);
  return error_fd;
}

[[noreturn]] void BecomeProgram(const ChildPlan& plan) {
  ResetSignals();
  const int error_fd = ArrangeDescriptors(plan);
  const rlimit no_core{0, 0};  // A core file would hold the user's data.
  const bool ready = setpgid(0, 0) == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 &&
                     prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                     setrlimit(RLIMIT_CORE, &no_core) == 0 && chdir(plan.working_folder) == 0;
  if (!ready) FailInChild(error_fd);
  if (getppid() != plan.parent) _exit(127);  // The agent died before prctl took effect.
  umask(077);
  execve(plan.program, plan.arguments, plan.environment);
  FailInChild(error_fd);
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

int OpenPidfd(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

// The errno of a child that could not start; 0 once it has become the program.
int ReadStartError(int fd) {
  int error = 0;
  ssize_t got = 0;
  do {
    got = read(fd, &error, sizeof error);
  } while (got < 0 && errno == EINTR);
  return got == sizeof error ? error : 0;
}

absl::StatusOr<ChildProcess> Fork(const ChildPlan& plan, UniqueFd error_read,
                                  UniqueFd error_write) {
  // With signals blocked, no handler of ours runs in the child.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = fork();
  if (pid == 0) BecomeProgram(plan);
  const int fork_error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return ErrnoToStatus(fork_error, absl::StrCat(plan.program, ": fork"));
  setpgid(pid, pid);  // Also here: whoever is first, the group exists before anybody kills it.
  ChildProcess child(pid, UniqueFd(OpenPidfd(pid)));
  error_write.Reset();
  if (const int error = ReadStartError(error_read.get()); error != 0) {
    return ErrnoToStatus(error, absl::StrCat("cannot start ", plan.program));
  }
  if (child.pidfd() < 0) return ErrnoToStatus(errno, absl::StrCat(plan.program, ": pidfd_open"));
  return child;
}

absl::StatusOr<ChildProcess> ForkAndExec(const SpawnRequest& request) {
  std::vector<std::string> arguments = request.arguments;
  arguments.insert(arguments.begin(), request.program.string());
  std::vector<std::string> environment = request.environment;
  const std::vector<char*> argument_pointers = Pointers(arguments);
  const std::vector<char*> environment_pointers = Pointers(environment);
  const UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null.valid()) return ErrnoToStatus(errno, "/dev/null");
  std::vector<int> sources = {null.get(), request.output_fd, request.output_fd};
  sources.insert(sources.end(), request.inherited.begin(), request.inherited.end());
  int error_pipe[2];
  if (pipe2(error_pipe, O_CLOEXEC) != 0) return ErrnoToStatus(errno, "pipe");
  UniqueFd error_read(error_pipe[0]);
  UniqueFd error_write(error_pipe[1]);
  const ChildPlan plan{request.program.c_str(),
                       argument_pointers.data(),
                       environment_pointers.data(),
                       request.working_folder.c_str(),
                       sources.data(),
                       static_cast<int>(sources.size()),
                       error_write.get(),
                       getpid()};
  return Fork(plan, std::move(error_read), std::move(error_write));
}

}  // namespace

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}

ChildProcess::~ChildProcess() {
  if (pid_ < 0) return;
  Kill();
  Reap();
}

void ChildProcess::Kill() {
  if (pid_ > 0) kill(-pid_, SIGKILL);
}

ExitReport ChildProcess::Reap() {
  siginfo_t info{};
  while (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
  }
  // Not reaped yet, so the group's number is still ours.
  Kill();
  ExitReport report;
  rusage usage{};
  while (wait4(pid_, &report.wait_status, 0, &usage) < 0 && errno == EINTR) {
  }
  report.peak_memory_bytes = int64_t{usage.ru_maxrss} * 1024;
  pid_ = -1;
  return report;
}

struct Spawner::Order {
  const SpawnRequest& request;
  std::optional<absl::StatusOr<ChildProcess>> result;
};

Spawner::Spawner() : thread_([this](const std::stop_token& stop) { Run(stop); }) {}

Spawner::~Spawner() = default;

absl::StatusOr<ChildProcess> Spawner::Spawn(const SpawnRequest& request) {
  Order order{request, std::nullopt};
  MutexLock lock(mu_);
  orders_.push_back(&order);
  wake_.notify_all();
  wake_.wait(lock, [&] { return order.result.has_value(); });
  return *std::move(order.result);
}

void Spawner::Run(const std::stop_token& stop) {
  while (true) {
    Order* order = nullptr;
    {
      MutexLock lock(mu_);
      if (!wake_.wait(lock, stop,
                      [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !orders_.empty(); })) {
        return;
      }
      order = orders_.front();
      orders_.pop_front();
    }
    absl::StatusOr<ChildProcess> result = ForkAndExec(order->request);
    const MutexLock lock(mu_);
    order->result.emplace(std::move(result));
    wake_.notify_all();
  }
}

}  // namespace lathe::agent
