#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/file.h"

namespace lathe {

// Child processes of this one, such as the ranks of one attempt: they die with it. One owner
// thread, which must be the main thread: the kernel ties the children to the thread that started
// them.
class ChildProcesses {
 public:
  // `program`: what Start runs; the default is this program.
  explicit ChildProcesses(std::string program = "/proc/self/exe") : program_(std::move(program)) {}
  ~ChildProcesses();  // Kills and reaps what still runs.
  ChildProcesses(const ChildProcesses&) = delete;
  ChildProcesses& operator=(const ChildProcesses&) = delete;

  // Runs the program with `arguments`. `inherited_fd` keeps its number in the child; -1:
  // none.
  absl::Status Start(const std::vector<std::string>& arguments, int inherited_fd);

  // Blocks until all have ended; returns their wait statuses in the order of Start. Once one has
  // failed the others get `grace` to notice, then SIGKILL. Cancelled: SIGINT or SIGTERM came; all
  // are gone then.
  absl::StatusOr<std::vector<int>> WaitAll(absl::Duration grace);

 private:
  struct Child {
    pid_t pid = -1;
    UniqueFd pidfd;
    bool ended = false;
    int wait_status = 0;
  };

  void Reap(Child& child);
  void KillAll();
  bool AnyRuns() const;
  bool AnyFailed() const;

  const std::string program_;
  std::vector<Child> children_;
};

}  // namespace lathe
