#pragma once

#include <cstdint>

// Gradients as whole numbers of 64 bits, whose sum depends on no order: docs/decisions/
// 0019-exact-reduction.md. Inner loops, one pass through memory each, compiled for AVX2: no
// allocation, no thread. T is float or double; pointers overlap nowhere.

namespace lathe {

// A gradient g counts as round(g * 2^44), half to even: steps of 6e-14, far below AdamW's eps.
inline constexpr double kFixedPointScale = 0x1p44;
// Of one value: 2^63 / 2^44.
inline constexpr double kFixedPointLimit = 0x1p19;

// sums += round(kFixedPointScale * values) modulo 2^64; values = 0. A value that is NaN or not
// below kFixedPointLimit counts as 0. Returns the largest magnitude; NaN if a value is NaN.
template <typename T>
T AddFixedPoint(T* values, int64_t count, int64_t* sums);

// values = sums / kFixedPointScale, rounded to 64 bits and then to T.
template <typename T>
void FromFixedPoint(const int64_t* sums, int64_t count, T* values);

}  // namespace lathe
