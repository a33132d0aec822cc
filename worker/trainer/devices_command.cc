#include "worker/trainer/devices_command.h"

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "worker/engine/dist/nccl_plugin.h"

namespace lathe {

absl::Status RunDevicesCommand() {
  LATHE_ASSIGN_OR_RETURN(NcclPlugin* const plugin, OpenNcclPlugin(DefaultNcclPluginPath()));
  const CudaDevices devices = plugin->Devices();
  absl::PrintF("NCCL %s: %d CUDA devices%s%s\n", plugin->NcclVersion(), devices.count,
               devices.reason.empty() ? "" : ": ", devices.reason);
  return absl::OkStatus();
}

}  // namespace lathe
