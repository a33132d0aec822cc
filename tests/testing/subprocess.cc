#include "tests/testing/subprocess.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace lathe::testing {
namespace {

// After fork. `source` may be any number but a target that is still needed: moved out of the way.
void Place(int source, int target) {
  if (source < 0) return;
  dup2(source, target);
}

[[noreturn]] void Become(const std::vector<std::string>& argv, int output, int fd_3, int fd_4) {
  const int out = fcntl(output, F_DUPFD_CLOEXEC, 10);
  const int three = fd_3 < 0 ? -1 : fcntl(fd_3, F_DUPFD_CLOEXEC, 10);
  const int four = fd_4 < 0 ? -1 : fcntl(fd_4, F_DUPFD_CLOEXEC, 10);
  Place(out, STDOUT_FILENO);
  Place(out, STDERR_FILENO);
  Place(three, 3);
  Place(four, 4);
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  execv(words[0], words.data());
  _exit(127);
}

}  // namespace

Subprocess::Subprocess(const std::vector<std::string>& argv, int fd_3, int fd_4) {
  int fds[2];
  EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
  out_ = UniqueFd(fds[0]);
  const UniqueFd write_end(fds[1]);
  pid_ = fork();
  if (pid_ == 0) Become(argv, write_end.get(), fd_3, fd_4);
  EXPECT_GT(pid_, 0);
}

Subprocess::~Subprocess() {
  if (reaped_) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

bool Subprocess::ReadMore() {
  char buffer[4096];
  ssize_t got = -1;
  do {
    got = read(out_.get(), buffer, sizeof buffer);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return false;
  output_.append(buffer, static_cast<size_t>(got));
  return true;
}

bool Subprocess::ReadUntil(const std::string& text) {
  while (true) {
    const size_t found = output_.find(text);
    if (found != std::string::npos && output_.find('\n', found) != std::string::npos) return true;
    if (!ReadMore()) return false;
  }
}

int Subprocess::Wait() {
  while (ReadMore()) continue;
  int status = -1;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
  reaped_ = true;
  return status;
}

std::vector<pid_t> Subprocess::Children() const {
  std::ifstream file(absl::StrCat("/proc/", pid_, "/task/", pid_, "/children"));
  std::vector<pid_t> children;
  for (pid_t child = 0; file >> child;) children.push_back(child);
  return children;
}

std::string Program(const std::string& name) {
  const char* folder = std::getenv("LATHE_BIN_DIR");
  EXPECT_NE(folder, nullptr) << "run this test with ctest: it sets LATHE_BIN_DIR";
  return absl::StrCat(folder == nullptr ? "." : folder, "/", name);
}

}  // namespace lathe::testing
