#include "cli/process.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace lathe::cli {

absl::StatusOr<int> RunAndWait(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t pid = -1;
  if (const int error = posix_spawn(&pid, argv[0], nullptr, nullptr, argv.data(), environ)) {
    return absl::ErrnoToStatus(error, absl::StrCat(arguments[0], ": start"));
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return absl::ErrnoToStatus(errno, absl::StrCat(arguments[0], ": wait"));
  }
  return status;
}

}  // namespace lathe::cli
