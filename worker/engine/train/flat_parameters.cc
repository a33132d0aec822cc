#include "worker/engine/train/flat_parameters.h"

#include <ATen/ATen.h>

#include <utility>

namespace lathe {
namespace {

at::Tensor View(const at::Tensor& flat, int64_t begin, const at::Tensor& like) {
  return flat.narrow(0, begin, like.numel()).view(like.sizes());
}

}  // namespace

FlatParameters::FlatParameters(std::vector<AdapterTensor> tensors) : tensors_(std::move(tensors)) {
  TORCH_CHECK(!tensors_.empty(), "there is nothing to train");
  const at::NoGradGuard no_grad;
  int64_t total = 0;
  for (const AdapterTensor& entry : tensors_) total += entry.tensor.numel();
  values_ = at::empty({total}, tensors_[0].tensor.options().requires_grad(false));
  gradients_ = at::zeros_like(values_);
  int64_t begin = 0;
  for (AdapterTensor& entry : tensors_) {
    at::Tensor& tensor = entry.tensor;
    const at::Tensor data = View(values_, begin, tensor);
    data.copy_(tensor.detach());
    tensor.set_data(data);
    tensor.mutable_grad() = View(gradients_, begin, tensor);
    begin += tensor.numel();
  }
}

void FlatParameters::CheckViews() const {
  const char* expected = static_cast<const char*>(gradients_.const_data_ptr());
  for (const AdapterTensor& entry : tensors_) {
    TORCH_INTERNAL_ASSERT(entry.tensor.grad().const_data_ptr() == expected, "gradient of ",
                          entry.name, " left the flat buffer");
    expected += entry.tensor.nbytes();
  }
}

}  // namespace lathe
