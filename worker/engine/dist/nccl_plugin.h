#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/engine/dist/communicator.h"

// The NCCL communicator is a shared library of its own, opened at run time: one lathe-trainer
// serves machines with and without GPUs, and is built without CUDA. docs/gpu.md says what of it has
// run.

namespace lathe {

class DeviceKernels;  // worker/engine/ops/device_kernels.h

struct NcclOptions {
  // CUDA device of this rank, from 0. No two ranks of a group share one.
  int device = 0;
  // Network device that NCCL may use: "lo" if all ranks are on one machine. Without it NCCL chooses
  // one, and listens there.
  std::string network_device = "lo";
  // Of one collective.
  absl::Duration collective_timeout = absl::Minutes(30);
};

struct CudaDevices {
  int count = 0;
  std::string reason;  // Why there is none: the driver's words.
};

// What the library exports. Lives as long as the process. Thread-compatible.
class NcclPlugin {
 public:
  virtual ~NcclPlugin() = default;

  virtual CudaDevices Devices() const = 0;
  virtual std::string NcclVersion() const = 0;
  // A group over the ranks of `control`: tensors on the GPU go over NCCL, tensors and bytes on the
  // CPU over `control`. Every rank calls it; it returns when all are connected. FailedPrecondition:
  // there is no such device. Unavailable: as Communicator.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Join(std::unique_ptr<Communicator> control,
                                                             const NcclOptions& options) = 0;
  // Kernels for this device, compiled at the first call; they live as long as the process.
  // Internal: the compiler's or the driver's words.
  virtual absl::StatusOr<const DeviceKernels*> Kernels(int device) = 0;
  // Their machine code for GPUs of that compute capability. Needs no GPU.
  virtual absl::StatusOr<std::string> KernelCode(int major, int minor) = 0;
};

// Opens liblathe_nccl.so. NotFound: it is not there. FailedPrecondition: something it needs is not
// (the loader's words), or it is of another build than this program.
absl::StatusOr<NcclPlugin*> OpenNcclPlugin(const std::filesystem::path& library);

// Beside the running program: where the build puts it.
std::filesystem::path DefaultNcclPluginPath();

// Raised with every change of this header or of Communicator: what is shared are vtables.
inline constexpr int kNcclPluginVersion = 3;
// int() and NcclPlugin*(), extern "C".
inline constexpr char kNcclPluginVersionSymbol[] = "LatheNcclPluginVersion";
inline constexpr char kNcclPluginSymbol[] = "LatheNcclPlugin";

}  // namespace lathe
