#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace at {
class Tensor;
}

namespace lathe {

// A collective that was started. Thread-compatible.
class PendingCollective {
 public:
  virtual ~PendingCollective() = default;
  // Until it is done. Called once. Unavailable: as Communicator.
  virtual absl::Status Wait() = 0;
};

// The group of ranks of one job attempt: the seam to the network for tensors. Every rank makes the
// same calls in the same order. Thread-compatible.
//
// Unavailable: a peer is gone or silent for too long; the group is unusable from then on.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // In place. Every rank ends with the same bits. REQUIRES: contiguous, of one shape and type.
  virtual absl::Status AllReduceSum(at::Tensor& tensor) = 0;
  // The same beside the caller, who leaves `tensor` alone until Wait(). Several may be on their
  // way; every rank starts them in the same order. This one does it at once.
  virtual std::unique_ptr<PendingCollective> StartAllReduceSum(at::Tensor& tensor);
  // In place, from rank `root`. REQUIRES: as AllReduceSum.
  virtual absl::Status Broadcast(at::Tensor& tensor, int root) = 0;
  // `part` [n] becomes the sum over all ranks of piece rank() of `whole` [size() * n]; `whole`
  // stays as it is. REQUIRES: contiguous, of one type, apart, n > 0.
  virtual absl::Status ReduceScatterSum(const at::Tensor& whole, at::Tensor& part) = 0;
  // `whole` [size() * n] becomes the `part` [n] of every rank, by rank. REQUIRES: as
  // ReduceScatterSum.
  virtual absl::Status AllGatherInto(const at::Tensor& part, at::Tensor& whole) = 0;
  virtual absl::Status Barrier() = 0;
  // The bytes of every rank, by rank. For small things: hashes, names.
  virtual absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view bytes) = 0;
  // The ranks that gave the same color as a group of their own, in the order they have here. Every
  // rank calls it. The new group does not need this one.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Split(int color) = 0;
};

// One rank alone: every call is done at once.
std::unique_ptr<Communicator> MakeSoloCommunicator();

}  // namespace lathe
