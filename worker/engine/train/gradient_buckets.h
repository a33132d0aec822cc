#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "worker/engine/dist/communicator.h"
#include "worker/engine/train/exact_sums.h"
#include "worker/engine/train/flat_parameters.h"

namespace lathe {

struct BucketOptions {
  // Sums as whole numbers: the same bits with any number of ranks, for 8 bytes per parameter. Else
  // as floats, in the order of micro-batches and ranks.
  bool exact = false;
  // A range ends at the first tensor that brings its gradients to so many. As PyTorch's DDP.
  int64_t bucket_bytes = int64_t{25} << 20;
};

// Sums the flat gradients over all ranks in ranges that start while the backward pass still runs.
// The ranges go from the end of the buffer to its begin, because backward is done with the last
// layers first; they are cut between tensors and fixed for life: the same ranks give the same bits.
// Thread-compatible.
class GradientBuckets {
 public:
  // All parts outlive the object, which hangs hooks on the tensors.
  GradientBuckets(FlatParameters& parameters, Communicator& group,
                  const BucketOptions& options = {});
  ~GradientBuckets();
  GradientBuckets(const GradientBuckets&) = delete;
  GradientBuckets& operator=(const GradientBuckets&) = delete;

  bool exact() const { return exact_.has_value(); }
  // A step begins: gradients and sums are zero.
  void SetZero();
  // Ends a micro-batch. Exact: its gradients go into the sums, and those in the buffer are zero
  // again; returns their largest magnitude, as ExactSums::TakeLargest(). Else they stay, for the
  // next micro-batch to add to, and 0 is returned.
  at::Tensor EndMicroBatch();

  // The next backward pass is the last one of the step on this rank: a range starts when its
  // tensors and all ranges before it are complete. A rank without one does not call it.
  void Arm();
  // Starts what has not started and waits for all of it: then the gradients are the sums. Every
  // rank calls it once per step. Unavailable: a peer is gone.
  absl::Status Finish();

  size_t num_buckets() const { return buckets_.size(); }
  // Of the step that was last finished: ranges that had started before Finish().
  size_t num_started_early() const { return num_started_early_; }

 private:
  class Hook;
  struct Bucket {
    int64_t begin = 0;  // In the flat gradients.
    int64_t size = 0;
    at::Tensor range = {};                             // What is summed: a view of them, or exact.
    int64_t num_tensors = 0;                           // In it.
    int64_t num_missing = 0;                           // Whose gradient is not complete.
    std::unique_ptr<PendingCollective> sum = nullptr;  // Null: not started.
  };

  void AddTensors(int64_t bucket_bytes);
  void Complete(size_t bucket);
  // In order, as far as they are complete or `all` says so.
  void Start(bool all);

  FlatParameters& parameters_;
  Communicator& group_;
  std::optional<ExactSums> exact_;
  std::vector<Bucket> buckets_;
  bool armed_ = false;
  size_t num_started_ = 0;
  size_t num_started_early_ = 0;
};

}  // namespace lathe
