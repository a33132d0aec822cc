#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file.h"
#include "common/base/mutex.h"

namespace lathe::agent {

struct SpawnRequest {
  std::filesystem::path program;
  std::vector<std::string> arguments;    // argv[1] and on.
  std::vector<std::string> environment;  // "NAME=value"; nothing is inherited.
  std::filesystem::path working_folder;
  int output_fd = -1;          // Becomes the child's 1 and 2. 0 is /dev/null.
  std::vector<int> inherited;  // Become the child's 3, 4, ...; it has no other descriptor.
};

// How a child ended.
struct ExitReport {
  int wait_status = 0;
  int64_t peak_memory_bytes = 0;  // Largest resident set.
};

// A child process in a process group of its own. Killed and reaped on destruction. One owner
// thread; pidfd() may be polled from any.
class ChildProcess {
 public:
  ChildProcess(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  // Readable once the child has ended.
  int pidfd() const { return pidfd_.get(); }
  // SIGKILL to the whole group.
  void Kill();
  // Blocks until the end; also kills what the child left in its group. REQUIRES: called once.
  ExitReport Reap();

 private:
  pid_t pid_;  // -1 once reaped: the number may belong to somebody else by then.
  UniqueFd pidfd_;
};

// Starts children from one thread that lives as long as the agent: the kernel ties "die with the
// parent" (PR_SET_PDEATHSIG) to the thread that forked. Thread-safe. REQUIRES: destroyed after
// its children, which would be killed.
class Spawner {
 public:
  Spawner();
  ~Spawner();
  // NotFound, PermissionDenied, ...: the program could not be started, by name.
  absl::StatusOr<ChildProcess> Spawn(const SpawnRequest& request);

 private:
  struct Order;
  void Run(const std::stop_token& stop);

  Mutex mu_;
  std::condition_variable_any wake_;
  std::deque<Order*> orders_ ABSL_GUARDED_BY(mu_);
  std::jthread thread_;
};

}  // namespace lathe::agent
