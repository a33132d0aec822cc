#pragma once

#include "absl/status/status.h"

namespace lathe {

// `lathe-trainer worker`: a child of the agent. Descriptor 3 is its end of a ChildChannel; the
// first message is a Task with `train` or `serve` (proto/lathe/internal/v1/child.proto). Its last
// message is Done or Failed; the status returned here becomes the exit code. A cancelled task is
// OK.
absl::Status RunWorkerCommand();

}  // namespace lathe
