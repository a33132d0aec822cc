#include "worker/trainer/worker_command.h"

// In builds without the service (LATHE_BUILD_SERVICE=OFF) there is no protobuf and no agent.

namespace lathe {

absl::Status RunWorkerCommand() {
  return absl::UnimplementedError(
      "worker: this lathe-trainer was built without the service; allowed are run and probe");
}

}  // namespace lathe
