// liblathe_nccl.so: NCCL's own API and not c10d's process group, whose store would have to listen
// for as long as the group lives.

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "worker/engine/dist/nccl_plugin.h"
#include "worker/engine/gpu/compiled_kernels.h"
#include "worker/engine/gpu/device_kernels_cuda.h"

namespace lathe {
namespace {

ncclDataType_t TypeOf(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kBFloat16:
      return ncclBfloat16;
    case at::kHalf:
      return ncclFloat16;
    case at::kLong:
      return ncclInt64;
    case at::kInt:
      return ncclInt32;
    case at::kByte:
      return ncclUint8;
    default:
      TORCH_CHECK(false, "NCCL: no collective for tensors of type ", tensor.scalar_type());
  }
}

size_t CountOf(const at::Tensor& tensor) { return static_cast<size_t>(tensor.numel()); }

CudaDevices CountDevices() {
  CudaDevices devices;
  const cudaError_t error = cudaGetDeviceCount(&devices.count);
  if (error == cudaSuccess) return devices;
  cudaGetLastError();  // Or the next call of anybody reports it again.
  return {.count = 0, .reason = cudaGetErrorString(error)};
}

// One rank. After an error the communicator is gone: every later call is Unavailable.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> control, NcclOptions options)
      : control_(std::move(control)), options_(std::move(options)) {}
  ~NcclCommunicator() override {
    if (comm_ != nullptr) ncclCommDestroy(comm_);
  }

  absl::Status Connect();

  int rank() const override { return control_->rank(); }
  int size() const override { return control_->size(); }
  absl::Status AllReduceSum(at::Tensor& tensor) override;
  absl::Status Broadcast(at::Tensor& tensor, int root) override;
  absl::Status ReduceScatterSum(const at::Tensor& whole, at::Tensor& part) override;
  absl::Status AllGatherInto(const at::Tensor& part, at::Tensor& whole) override;
  absl::Status Barrier() override { return control_->Barrier(); }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view bytes) override {
    return control_->AllGather(bytes);
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color) override;

 private:
  using Start = std::function<ncclResult_t(cudaStream_t)>;

  // Starts a collective on the current stream and waits for its end.
  absl::Status Run(absl::string_view what, const Start& start);
  absl::Status Wait(absl::string_view what, cudaStream_t stream);
  absl::Status Abort(absl::string_view what, absl::string_view why);

  const std::unique_ptr<Communicator> control_;
  const NcclOptions options_;
  ncclComm_t comm_ = nullptr;
};

// Blocks for as long as a peer does not come: who started the ranks ends them when one has failed.
absl::Status NcclCommunicator::Connect() {
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(options_.device));
  if (!options_.network_device.empty()) {
    setenv("NCCL_SOCKET_IFNAME", options_.network_device.c_str(), /*overwrite=*/1);
  }
  ncclUniqueId id;
  std::string own;
  if (rank() == 0 && ncclGetUniqueId(&id) == ncclSuccess) own.assign(id.internal, sizeof(id));
  LATHE_ASSIGN_OR_RETURN(const std::vector<std::string> ids, control_->AllGather(own));
  if (ids[0].size() != sizeof(id)) {
    return absl::UnavailableError(
        absl::StrCat("NCCL: rank 0 sent an id of ", ids[0].size(), " bytes; must be ", sizeof(id)));
  }
  std::memcpy(&id, ids[0].data(), sizeof(id));
  const ncclResult_t result = ncclCommInitRank(&comm_, size(), id, rank());
  if (result == ncclSuccess) return absl::OkStatus();
  comm_ = nullptr;
  return absl::UnavailableError(absl::StrCat("NCCL: rank ", rank(), " of ", size(), ", device ",
                                             options_.device, ": ", ncclGetErrorString(result)));
}

absl::Status NcclCommunicator::AllReduceSum(at::Tensor& tensor) {
  if (tensor.is_cpu()) return control_->AllReduceSum(tensor);
  return Run("all-reduce", [&](cudaStream_t stream) {
    return ncclAllReduce(tensor.const_data_ptr(), tensor.mutable_data_ptr(), CountOf(tensor),
                         TypeOf(tensor), ncclSum, comm_, stream);
  });
}

absl::Status NcclCommunicator::Broadcast(at::Tensor& tensor, int root) {
  if (tensor.is_cpu()) return control_->Broadcast(tensor, root);
  return Run("broadcast", [&](cudaStream_t stream) {
    return ncclBroadcast(tensor.const_data_ptr(), tensor.mutable_data_ptr(), CountOf(tensor),
                         TypeOf(tensor), root, comm_, stream);
  });
}

absl::Status NcclCommunicator::ReduceScatterSum(const at::Tensor& whole, at::Tensor& part) {
  if (part.is_cpu()) return control_->ReduceScatterSum(whole, part);
  return Run("reduce-scatter", [&](cudaStream_t stream) {
    return ncclReduceScatter(whole.const_data_ptr(), part.mutable_data_ptr(), CountOf(part),
                             TypeOf(part), ncclSum, comm_, stream);
  });
}

absl::Status NcclCommunicator::AllGatherInto(const at::Tensor& part, at::Tensor& whole) {
  if (part.is_cpu()) return control_->AllGatherInto(part, whole);
  return Run("all-gather", [&](cudaStream_t stream) {
    return ncclAllGather(part.const_data_ptr(), whole.mutable_data_ptr(), CountOf(part),
                         TypeOf(part), comm_, stream);
  });
}

absl::StatusOr<std::unique_ptr<Communicator>> NcclCommunicator::Split(int color) {
  LATHE_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> control, control_->Split(color));
  auto group = std::make_unique<NcclCommunicator>(std::move(control), options_);
  LATHE_RETURN_IF_ERROR(group->Connect());
  return group;
}

absl::Status NcclCommunicator::Run(absl::string_view what, const Start& start) {
  if (comm_ == nullptr) return absl::UnavailableError(absl::StrCat(what, ": the group is gone"));
  const auto device = static_cast<c10::DeviceIndex>(options_.device);
  const c10::cuda::CUDAGuard guard(device);
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream(device).stream();
  const ncclResult_t result = start(stream);
  if (result != ncclSuccess) return Abort(what, ncclGetErrorString(result));
  return Wait(what, stream);
}

// As NVIDIA's guide has it under "fault tolerance": a peer that is gone is an asynchronous error,
// one that hangs is only silent, and a collective that is stuck on the device ends by abort alone.
absl::Status NcclCommunicator::Wait(absl::string_view what, cudaStream_t stream) {
  const absl::Time deadline = absl::Now() + options_.collective_timeout;
  while (true) {
    const cudaError_t done = cudaStreamQuery(stream);
    if (done == cudaSuccess) return absl::OkStatus();
    if (done != cudaErrorNotReady) return Abort(what, cudaGetErrorString(done));
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
    if (asked != ncclSuccess) return Abort(what, ncclGetErrorString(asked));
    if (state != ncclSuccess && state != ncclInProgress) {
      return Abort(what, ncclGetErrorString(state));
    }
    if (absl::Now() > deadline) {
      return Abort(what, absl::StrCat("a peer is silent for ",
                                      absl::FormatDuration(options_.collective_timeout)));
    }
    std::this_thread::yield();
  }
}

absl::Status NcclCommunicator::Abort(absl::string_view what, absl::string_view why) {
  ncclCommAbort(std::exchange(comm_, nullptr));
  return absl::UnavailableError(absl::StrCat("NCCL ", what, ": ", why));
}

class Plugin final : public NcclPlugin {
 public:
  CudaDevices Devices() const override { return CountDevices(); }

  std::string NcclVersion() const override {
    int version = 0;
    if (ncclGetVersion(&version) != ncclSuccess) return "unknown";
    return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Join(std::unique_ptr<Communicator> control,
                                                     const NcclOptions& options) override {
    const CudaDevices devices = CountDevices();
    if (options.device < 0 || options.device >= devices.count) {
      return absl::FailedPreconditionError(
          absl::StrCat("device is ", options.device, "; this machine has ", devices.count,
                       " CUDA devices", devices.reason.empty() ? "" : ": ", devices.reason));
    }
    auto group = std::make_unique<NcclCommunicator>(std::move(control), options);
    LATHE_RETURN_IF_ERROR(group->Connect());
    return group;
  }

  absl::StatusOr<const DeviceKernels*> Kernels(int device) override {
    std::unique_ptr<DeviceKernels>& kernels = kernels_[device];
    if (kernels == nullptr) {
      LATHE_ASSIGN_OR_RETURN(kernels, LoadDeviceKernels(device));
    }
    return kernels.get();
  }

  absl::StatusOr<std::string> KernelCode(int major, int minor) override {
    return CompileKernels(major, minor);
  }

 private:
  std::map<int, std::unique_ptr<DeviceKernels>> kernels_;
};

}  // namespace
}  // namespace lathe

extern "C" __attribute__((visibility("default"))) int LatheNcclPluginVersion() {
  return lathe::kNcclPluginVersion;
}

extern "C" __attribute__((visibility("default"))) lathe::NcclPlugin* LatheNcclPlugin() {
  static lathe::Plugin plugin;
  return &plugin;
}
