#include "cli/merge.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/transfer.h"
#include "common/base/exit_codes.h"
#include "common/base/status.h"
#include "common/config/environment.h"

namespace lathe::cli {
namespace {

std::vector<std::string> Arguments(const MergeRequest& request) {
  std::vector<std::string> arguments = {(ProgramFolder() / "lathe-prepare").string(), "merge"};
  const auto add = [&](const char* flag, const std::string& value) {
    if (!value.empty()) arguments.insert(arguments.end(), {flag, value});
  };
  add("--base", request.base.string());
  add("--adapter", request.adapter.string());
  add("--out", request.to.string());
  if (request.gguf.empty()) {
    add("--dtype", request.dtype);
    add("--shard-size", request.shard_size);
  } else {
    add("--gguf", request.gguf);
    add("--name", request.name);
  }
  return arguments;
}

// The wait status.
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

}  // namespace

absl::Status MergeFolders(const MergeRequest& request) {
  LATHE_ASSIGN_OR_RETURN(const int status, RunAndWait(Arguments(request)));
  if (status == 0) {
    if (request.gguf.empty()) MakePublic(request.to);  // A file is public already.
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("merging did not succeed: lathe-prepare ", DescribeExit(status)));
}

}  // namespace lathe::cli
