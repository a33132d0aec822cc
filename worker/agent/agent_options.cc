#include "worker/agent/agent_options.h"

#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "common/base/status.h"

namespace lathe::agent {
namespace {

absl::Status CheckRange(absl::string_view what, int value, int lowest, int highest) {
  if (value >= lowest && value <= highest) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is ", value, "; must be in [", lowest, ", ", highest, "]"));
}

}  // namespace

absl::Status AgentOptions::Validate() const {
  LATHE_RETURN_IF_ERROR(ValidateName("worker name", name));
  LATHE_RETURN_IF_ERROR(CheckRange("--slots", slots, 1, 1024));
  LATHE_RETURN_IF_ERROR(CheckRange("--threads-per-slot", threads_per_slot, 1, 1024));
  if (!gpus.empty() && gpus.size() != static_cast<size_t>(slots)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--slots is ", slots, "; must be the number of --gpus, ", gpus.size()));
  }
  if (!program_folder.is_absolute()) {
    return absl::InvalidArgumentError(absl::StrCat("program folder is '", program_folder.string(),
                                                   "'; must be an absolute path"));
  }
  return absl::OkStatus();
}

}  // namespace lathe::agent
