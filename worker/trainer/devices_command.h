#pragma once

#include "absl/status/status.h"

namespace lathe {

// `lathe-trainer devices`: opens the NCCL plugin and prints what it finds, in one line. No device
// is not an error; a plugin that is not there or cannot be opened is.
absl::Status RunDevicesCommand();

}  // namespace lathe
