#include "worker/engine/ops/dropout_mask.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "worker/engine/ops/device_kernels.h"

namespace lathe {
namespace {

// Values at a time: eight bytes each, several times.
constexpr int64_t kPiece = int64_t{1} << 22;

// The constants of counter_random.h. I64 wraps around as U64 does.
constexpr int64_t Signed(uint64_t value) { return static_cast<int64_t>(value); }

// Without dragging the sign along.
at::Tensor ShiftRight(const at::Tensor& x, int64_t bits) {
  return at::bitwise_right_shift(x, bits).bitwise_and_((int64_t{1} << (64 - bits)) - 1);
}

at::Tensor MixBits(at::Tensor x) {
  x = x + Signed(0x9E3779B97F4A7C15U);
  x = at::bitwise_xor(x, ShiftRight(x, 30)).mul_(Signed(0xBF58476D1CE4E5B9U));
  x = at::bitwise_xor(x, ShiftRight(x, 27)).mul_(Signed(0x94D049BB133111EBU));
  return at::bitwise_xor(x, ShiftRight(x, 31));
}

// [count], F64 in [0, 1).
at::Tensor Uniform(int64_t begin, int64_t count, uint64_t stream_key, at::Device device) {
  const at::Tensor index =
      at::arange(begin, begin + count, at::TensorOptions().dtype(at::kLong).device(device));
  const at::Tensor key = index.mul(Signed(0xD1342543DE82EF95U)).add_(Signed(stream_key));
  return ShiftRight(MixBits(key), 11).to(at::kDouble).mul_(0x1.0p-53);
}

}  // namespace

void FillDropoutMask(at::Tensor& mask, double dropout, uint64_t stream_key) {
  if (const DeviceKernels* kernels = DeviceKernelsFor(mask)) {
    return kernels->DropoutMask(mask, dropout, stream_key);
  }
  mask.fill_(1 / (1 - dropout));
  const at::Tensor flat = mask.view({-1});
  for (int64_t begin = 0; begin < flat.numel(); begin += kPiece) {
    const int64_t count = std::min(kPiece, flat.numel() - begin);
    const at::Tensor dropped = Uniform(begin, count, stream_key, mask.device()).lt(dropout);
    flat.narrow(0, begin, count).masked_fill_(dropped, 0);
  }
}

}  // namespace lathe
