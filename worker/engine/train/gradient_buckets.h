#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "worker/engine/dist/communicator.h"
#include "worker/engine/train/flat_parameters.h"

namespace lathe {

// Sums the flat gradients over all ranks in ranges that start while the backward pass still runs.
// The ranges go from the end of the buffer to its begin, because backward is done with the last
// layers first; they are cut between tensors and fixed for life: the same ranks give the same bits.
// Thread-compatible.
class GradientBuckets {
 public:
  // A range ends at the first tensor that brings it to `bucket_bytes`. 25 MiB: as PyTorch's DDP.
  // All parts outlive the object, which hangs hooks on the tensors.
  GradientBuckets(FlatParameters& parameters, Communicator& group,
                  int64_t bucket_bytes = int64_t{25} << 20);
  ~GradientBuckets();
  GradientBuckets(const GradientBuckets&) = delete;
  GradientBuckets& operator=(const GradientBuckets&) = delete;

  // The next backward pass is the last one of the step on this rank: a range starts when its
  // tensors and all ranges before it are complete. A rank without one does not call it.
  void Arm();
  // Starts what has not started and waits for all of it. Every rank calls it once per step.
  // Unavailable: a peer is gone.
  absl::Status Finish();

  size_t num_buckets() const { return buckets_.size(); }
  // Of the step that was last finished: ranges that had started before Finish().
  size_t num_started_early() const { return num_started_early_; }

 private:
  class Hook;
  struct Bucket {
    at::Tensor range;                                  // View of the flat gradients.
    int64_t num_tensors = 0;                           // In it.
    int64_t num_missing = 0;                           // Whose gradient is not complete.
    std::unique_ptr<PendingCollective> sum = nullptr;  // Null: not started.
  };

  void Complete(size_t bucket);
  // In order, as far as they are complete or `all` says so.
  void Start(bool all);

  FlatParameters& parameters_;
  Communicator& group_;
  std::vector<Bucket> buckets_;
  bool armed_ = false;
  size_t num_started_ = 0;
  size_t num_started_early_ = 0;
};

}  // namespace lathe
