#include "worker/engine/train/fixed_point.h"

#include <bit>
#include <type_traits>

namespace lathe {
namespace {

// 1.5 * 2^52: adding it to a smaller number rounds that to a whole one, half to even, which then
// stands in the lowest bits. AVX2 has no conversion to 64-bit integers.
constexpr double kRound = 0x1.8p52;

// x to the nearest whole number, half to even, as two's complement. The upper half is a multiple of
// 2^32, so what is left is exact, and its rounding that of x. REQUIRES: |x| < 2^63.
inline uint64_t ToWhole(double x) {
  const double upper = (x * 0x1p-32 + kRound) - kRound;
  const double lower = x - upper * 0x1p32;
  const uint64_t zero = std::bit_cast<uint64_t>(kRound);
  return ((std::bit_cast<uint64_t>(upper + kRound) - zero) << 32) +
         (std::bit_cast<uint64_t>(lower + kRound) - zero);
}

}  // namespace

template <typename T>
T AddFixedPoint(T* values, int64_t count, int64_t* sums) {
  // Without their sign the bits of floats are in the order of their magnitudes, NaN above all.
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr auto kMagnitude = static_cast<Bits>(~(Bits{1} << (8 * sizeof(T) - 1)));
  constexpr auto kLimit = std::bit_cast<Bits>(static_cast<T>(kFixedPointLimit));
  Bits largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; ++i) {
    const Bits magnitude = std::bit_cast<Bits>(values[i]) & kMagnitude;
    largest = magnitude > largest ? magnitude : largest;
    const T counted = magnitude < kLimit ? values[i] : T{0};
    const uint64_t whole = ToWhole(static_cast<double>(counted) * kFixedPointScale);
    sums[i] = static_cast<int64_t>(static_cast<uint64_t>(sums[i]) + whole);
    values[i] = 0;
  }
  return std::bit_cast<T>(largest);
}

template <typename T>
void FromFixedPoint(const int64_t* sums, int64_t count, T* values) {
  constexpr double kStep = 1 / kFixedPointScale;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    values[i] = static_cast<T>(static_cast<double>(sums[i]) * kStep);
  }
}

template float AddFixedPoint(float*, int64_t, int64_t*);
template double AddFixedPoint(double*, int64_t, int64_t*);
template void FromFixedPoint(const int64_t*, int64_t, float*);
template void FromFixedPoint(const int64_t*, int64_t, double*);

}  // namespace lathe
