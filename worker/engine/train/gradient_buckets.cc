#include "worker/engine/train/gradient_buckets.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <utility>

#include "common/base/status.h"

namespace lathe {

// Called by autograd each time it has added to a tensor's gradient.
class GradientBuckets::Hook final : public torch::autograd::PostAccumulateGradHook {
 public:
  Hook(GradientBuckets& buckets, size_t bucket) : buckets_(buckets), bucket_(bucket) {}
  void operator()(const at::Tensor& /*tensor*/) override { buckets_.Complete(bucket_); }

 private:
  GradientBuckets& buckets_;
  const size_t bucket_;
};

GradientBuckets::GradientBuckets(FlatParameters& parameters, Communicator& group,
                                 const BucketOptions& options)
    : parameters_(parameters), group_(group) {
  if (options.exact) exact_.emplace(parameters.gradients());
  AddTensors(options.bucket_bytes);
}

void GradientBuckets::AddTensors(int64_t bucket_bytes) {
  const std::vector<AdapterTensor>& tensors = parameters_.tensors();
  int64_t end = parameters_.num_parameters();
  int64_t begin = end;
  int64_t num_tensors = 0;
  for (size_t i = tensors.size(); i-- > 0;) {
    const at::Tensor& tensor = tensors[i].tensor;
    begin -= tensor.numel();
    ++num_tensors;
    torch::autograd::impl::set_post_acc_grad_hooks(tensor,
                                                   std::make_unique<Hook>(*this, buckets_.size()));
    if (i > 0 && (end - begin) * tensor.element_size() < bucket_bytes) continue;
    Bucket bucket = {.begin = begin, .size = end - begin, .num_tensors = num_tensors};
    bucket.range = exact_ ? exact_->Range(bucket.begin, bucket.size)
                          : parameters_.gradients().narrow(0, bucket.begin, bucket.size);
    buckets_.push_back(std::move(bucket));
    end = begin;
    num_tensors = 0;
  }
}

GradientBuckets::~GradientBuckets() {
  for (const AdapterTensor& entry : parameters_.tensors()) {
    torch::autograd::impl::set_post_acc_grad_hooks(entry.tensor, nullptr);
  }
}

void GradientBuckets::SetZero() {
  parameters_.ZeroGradients();
  if (exact_) exact_->SetZero();
}

at::Tensor GradientBuckets::EndMicroBatch() {
  if (!exact_) return at::zeros({}, at::kDouble);
  // What is on its way already was added when it started.
  exact_->Add(0,
              num_started_ == 0 ? parameters_.num_parameters() : buckets_[num_started_ - 1].begin);
  return exact_->TakeLargest();
}

void GradientBuckets::Arm() {
  armed_ = true;
  for (Bucket& bucket : buckets_) bucket.num_missing = bucket.num_tensors;
}

void GradientBuckets::Complete(size_t bucket) {
  if (!armed_) return;
  --buckets_[bucket].num_missing;
  Start(/*all=*/false);
}

void GradientBuckets::Start(bool all) {
  while (num_started_ < buckets_.size() && (all || buckets_[num_started_].num_missing == 0)) {
    Bucket& bucket = buckets_[num_started_++];
    // Before the end of the micro-batch, else there is nothing left to add.
    if (exact_ && !all) exact_->Add(bucket.begin, bucket.size);
    bucket.sum = group_.StartAllReduceSum(bucket.range);
  }
}

absl::Status GradientBuckets::Finish() {
  num_started_early_ = num_started_;
  Start(/*all=*/true);
  armed_ = false;
  num_started_ = 0;
  absl::Status status;
  for (Bucket& bucket : buckets_) {
    status.Update(bucket.sum->Wait());
    bucket.sum.reset();
  }
  if (exact_ && status.ok()) exact_->Read();
  return status;
}

}  // namespace lathe
