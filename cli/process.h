#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lathe::cli {

// Runs a program to its end, with the descriptors of this one. arguments[0] is a path. The wait
// status.
absl::StatusOr<int> RunAndWait(std::vector<std::string> arguments);

}  // namespace lathe::cli
