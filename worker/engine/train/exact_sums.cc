#include "worker/engine/train/exact_sums.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>
#include <utility>

#include "worker/engine/train/fixed_point.h"

namespace lathe {
namespace {

// Values that one thread takes at once.
constexpr int64_t kGrain = int64_t{1} << 15;

double Larger(double a, double b) { return a > b || std::isnan(a) ? a : b; }

// Returns the largest magnitude.
double AddOnCpu(const at::Tensor& gradients, const at::Tensor& sums) {
  double largest = 0;
  AT_DISPATCH_FLOATING_TYPES(gradients.scalar_type(), "AddOnCpu", [&] {
    auto* values = gradients.mutable_data_ptr<scalar_t>();
    auto* to = sums.mutable_data_ptr<int64_t>();
    largest = at::parallel_reduce(
        0, gradients.numel(), kGrain, 0.0,
        [&](int64_t begin, int64_t end, double known) {
          const scalar_t found = AddFixedPoint(values + begin, end - begin, to + begin);
          return Larger(static_cast<double>(found), known);
        },
        Larger);
  });
  return largest;
}

}  // namespace

at::Tensor AddExactByAten(const at::Tensor& gradients, const at::Tensor& sums) {
  at::Tensor largest = gradients.abs().amax().to(at::kDouble);
  sums.add_(gradients.mul(kFixedPointScale).round_().to(at::kLong));
  gradients.zero_();
  return largest;
}

ExactSums::ExactSums(at::Tensor gradients)
    : gradients_(std::move(gradients)),
      sums_(at::zeros_like(gradients_, at::kLong)),
      largest_(at::zeros({}, gradients_.options().dtype(at::kDouble))) {}

void ExactSums::Add(int64_t begin, int64_t size) {
  if (size == 0) return;
  const at::NoGradGuard no_grad;
  const at::Tensor gradients = gradients_.narrow(0, begin, size);
  const at::Tensor sums = Range(begin, size);
  if (!gradients.is_cpu()) {
    largest_ = at::maximum(largest_, AddExactByAten(gradients, sums));
    return;
  }
  auto& largest = *largest_.mutable_data_ptr<double>();
  largest = Larger(AddOnCpu(gradients, sums), largest);
}

at::Tensor ExactSums::TakeLargest() { return std::exchange(largest_, at::zeros_like(largest_)); }

void ExactSums::Read() {
  const at::NoGradGuard no_grad;
  if (!gradients_.is_cpu()) {
    gradients_.copy_(sums_.to(at::kDouble).mul_(1 / kFixedPointScale));
    return;
  }
  AT_DISPATCH_FLOATING_TYPES(gradients_.scalar_type(), "ExactSums::Read", [&] {
    auto* values = gradients_.mutable_data_ptr<scalar_t>();
    const auto* from = sums_.const_data_ptr<int64_t>();
    at::parallel_for(0, gradients_.numel(), kGrain, [&](int64_t begin, int64_t end) {
      FromFixedPoint(from + begin, end - begin, values + begin);
    });
  });
}

}  // namespace lathe
