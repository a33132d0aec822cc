#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The GPUs that an agent offers: one is one slot, and a child sees those of its slots alone.

namespace lathe::agent {

// Numbers of the NVIDIA GPUs of this machine, ascending, as the driver's files in `dev` name them.
std::vector<int> PresentGpus(const std::filesystem::path& dev = "/dev");

// What --gpus says: "all" or numbers like "0,2". InvalidArgument: anything else, a number twice, or
// a GPU that is not in `present`.
absl::StatusOr<std::vector<int>> ParseGpus(absl::string_view flag, const std::vector<int>& present);

// The first `count` of `gpus` that are not in `taken`. REQUIRES: there are so many.
std::vector<int> TakeGpus(const std::vector<int>& gpus, const std::vector<int>& taken, int count);

}  // namespace lathe::agent
