#include "worker/engine/dist/communicator.h"

#include <ATen/ATen.h>

namespace lathe {
namespace {

class SoloCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status AllReduceSum(at::Tensor& /*tensor*/) override { return absl::OkStatus(); }
  absl::Status Broadcast(at::Tensor& /*tensor*/, int /*root*/) override { return absl::OkStatus(); }
  absl::Status ReduceScatterSum(const at::Tensor& whole, at::Tensor& part) override {
    part.copy_(whole);
    return absl::OkStatus();
  }
  absl::Status AllGatherInto(const at::Tensor& part, at::Tensor& whole) override {
    whole.copy_(part);
    return absl::OkStatus();
  }
  absl::Status Barrier() override { return absl::OkStatus(); }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view bytes) override {
    return std::vector<std::string>{std::string(bytes)};
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int /*color*/) override {
    return MakeSoloCommunicator();
  }
};

}  // namespace

std::unique_ptr<Communicator> MakeSoloCommunicator() {
  return std::make_unique<SoloCommunicator>();
}

}  // namespace lathe
