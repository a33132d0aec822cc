#include "worker/engine/dist/communicator.h"

#include <utility>

namespace lathe {
namespace {

class DoneCollective final : public PendingCollective {
 public:
  explicit DoneCollective(absl::Status status) : status_(std::move(status)) {}
  absl::Status Wait() override { return status_; }

 private:
  const absl::Status status_;
};

}  // namespace

std::unique_ptr<PendingCollective> Communicator::StartAllReduceSum(at::Tensor& tensor) {
  return std::make_unique<DoneCollective>(AllReduceSum(tensor));
}

}  // namespace lathe
