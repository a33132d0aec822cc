#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/spec/job_spec.h"
#include "worker/engine/dist/communicator.h"
#include "worker/engine/dist/nccl_plugin.h"

// The GPUs of a job with device: cuda, one per rank. docs/gpu.md says what of it has run.

namespace lathe {

// Opens the library with everything that computes on GPUs. Before any other use of libtorch in the
// process, which looks for GPUs once. FailedPrecondition, for the user: this build has no such
// library, or this machine no device.
absl::StatusOr<NcclPlugin*> OpenCuda(
    const std::filesystem::path& library = DefaultNcclPluginPath());

// Every tensor of `device` is computed with the GPU's own kernels from now on. Internal: they
// cannot be made.
absl::Status UseKernels(NcclPlugin& plugin, int device);

// OK for a job on the CPU. Otherwise as OpenCuda: before anything else is done for the job.
absl::Status CheckDevice(const JobSpec& spec,
                         const std::filesystem::path& library = DefaultNcclPluginPath());

// Ranks on one machine take its devices in their order. `machines`: by rank. FailedPrecondition:
// the machine has fewer devices than ranks.
absl::StatusOr<int> DeviceOfRank(const std::vector<std::string>& machines, int rank,
                                 int num_devices);

struct CudaRank {
  std::unique_ptr<Communicator> group;  // Tensors on the device go over NCCL.
  int device = -1;
};
// Every rank of `control` calls it. `owns_device`: the first device that this process sees is the
// rank's; otherwise DeviceOfRank says which. Errors: DeviceOfRank, NcclPlugin::Join.
absl::StatusOr<CudaRank> JoinOnCuda(NcclPlugin& plugin, std::unique_ptr<Communicator> control,
                                    bool owns_device);

}  // namespace lathe
