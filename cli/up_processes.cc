#include "cli/up_processes.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace lathe::cli {
namespace {

int64_t MonotonicMillis() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// After fork only async-signal-safe calls are allowed: gRPC has threads.
[[noreturn]] void RunChild(char* const* argv, int output, int log, int null) {
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  dup2(null, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  execv(argv[0], argv);
  _exit(127);
}

}  // namespace

absl::StatusOr<ChildProcess> StartProcess(const ProcessSpec& spec) {
  if (access(spec.argv[0].c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(spec.argv[0], ": no such program; build it first"));
  }
  const UniqueFd log(open(spec.log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!log.valid()) return ErrnoToStatus(errno, absl::StrCat(spec.log_path.string(), ": open"));
  const UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return ErrnoToStatus(errno, "pipe");
  UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  std::vector<char*> argv;
  for (const std::string& argument : spec.argv) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid < 0) return ErrnoToStatus(errno, absl::StrCat(spec.name, ": fork"));
  if (pid == 0) RunChild(argv.data(), write_end.get(), log.get(), null.get());
  return ChildProcess{pid, std::move(read_end)};
}

absl::StatusOr<std::string> ReadFirstLine(const UniqueFd& output, int seconds) {
  std::string line;
  const int64_t deadline = MonotonicMillis() + int64_t{seconds} * 1000;
  while (line.size() < 4096) {
    const int64_t left = deadline - MonotonicMillis();
    pollfd waiting{output.get(), POLLIN, 0};
    const int ready = left > 0 ? poll(&waiting, 1, static_cast<int>(left)) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0)
      return absl::DeadlineExceededError(absl::StrCat("no answer in ", seconds, " s"));
    char c = 0;
    if (read(output.get(), &c, 1) != 1) return absl::UnavailableError("ended before it was ready");
    if (c == '\n') return line;
    line.push_back(c);
  }
  return absl::DataLossError("its first line is over 4096 bytes");
}

std::string LastLine(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::string line;
  std::string last;
  while (std::getline(in, line)) {
    if (!line.empty()) last = line;
  }
  return last;
}

}  // namespace lathe::cli
