#include "worker/trainer/cuda_group.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/engine/ops/device_kernels.h"

namespace lathe {
namespace {

constexpr size_t kMaxNameBytes = 4096;

// Containers on one machine see devices of their own: their host name tells them apart.
std::string MachineName() {
  const auto boot = ReadFile("/proc/sys/kernel/random/boot_id", kMaxNameBytes);
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return absl::StrCat(boot.ok() ? *boot : "", host.data());
}

absl::Status Refusal(absl::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat("device is 'cuda'; ", why, "; must be cpu here"));
}

bool OnOneMachine(const std::vector<std::string>& machines) {
  return std::all_of(machines.begin(), machines.end(),
                     [&](const std::string& machine) { return machine == machines[0]; });
}

}  // namespace

absl::StatusOr<NcclPlugin*> OpenCuda(const std::filesystem::path& library) {
  const absl::StatusOr<NcclPlugin*> plugin = OpenNcclPlugin(library);
  if (!plugin.ok())
    return Refusal(absl::StrCat("this program has no GPU part (", plugin.status().message(), ")"));
  const CudaDevices devices = (*plugin)->Devices();
  if (devices.count > 0) return *plugin;
  return Refusal(absl::StrCat("this machine has 0 CUDA devices (", devices.reason, ")"));
}

absl::Status UseKernels(NcclPlugin& plugin, int device) {
  LATHE_ASSIGN_OR_RETURN(const DeviceKernels* const kernels, plugin.Kernels(device));
  UseDeviceKernels(kernels);
  return absl::OkStatus();
}

absl::Status CheckDevice(const JobSpec& spec, const std::filesystem::path& library) {
  return spec.device == "cuda" ? OpenCuda(library).status() : absl::OkStatus();
}

absl::StatusOr<int> DeviceOfRank(const std::vector<std::string>& machines, int rank,
                                 int num_devices) {
  const auto own = machines.begin() + rank;
  const auto device = static_cast<int>(std::count(machines.begin(), own, *own));
  if (device < num_devices) return device;
  return absl::FailedPreconditionError(absl::StrCat(
      "ranks is ", machines.size(), "; ", std::count(machines.begin(), machines.end(), *own),
      " of them are on one machine, which has ", num_devices,
      " CUDA devices; must be at most one rank per device"));
}

absl::StatusOr<CudaRank> JoinOnCuda(NcclPlugin& plugin, std::unique_ptr<Communicator> control,
                                    bool owns_device) {
  if (control->size() == 1) return CudaRank{.group = std::move(control), .device = 0};
  LATHE_ASSIGN_OR_RETURN(const std::vector<std::string> machines,
                         control->AllGather(MachineName()));
  NcclOptions options;
  if (owns_device) {
    options.device = 0;
  } else {
    LATHE_ASSIGN_OR_RETURN(options.device,
                           DeviceOfRank(machines, control->rank(), plugin.Devices().count));
  }
  if (!OnOneMachine(machines)) options.network_device.clear();
  CudaRank rank{.group = nullptr, .device = options.device};
  LATHE_ASSIGN_OR_RETURN(rank.group, plugin.Join(std::move(control), options));
  return rank;
}

}  // namespace lathe
