#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/file.h"

namespace lathe::cli {

struct ProcessSpec {
  std::string name;                // For people: "worker-1".
  std::vector<std::string> argv;   // argv[0] is a path.
  std::filesystem::path log_path;  // Standard error is appended there.
};

struct ChildProcess {
  pid_t pid = -1;
  UniqueFd output;  // The read end of its standard output.
};

// Starts the program in its own process group with an empty signal mask. REQUIRES: the calling
// thread lives as long as the child should, since children die with it.
absl::StatusOr<ChildProcess> StartProcess(const ProcessSpec& spec);

// The first line of `output`; Unavailable if it ends before one comes, DeadlineExceeded after
// `seconds`.
absl::StatusOr<std::string> ReadFirstLine(const UniqueFd& output, int seconds);

// The last line that is not empty.
std::string LastLine(const std::filesystem::path& path);

}  // namespace lathe::cli
