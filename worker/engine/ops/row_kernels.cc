#include "worker/engine/ops/row_kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

// Plain loops that the compiler turns into vector code (-O3, AVX2, FMA; worker/engine/ops/
// CMakeLists.txt). `omp simd` allows it to split a sum into lanes; there are no OpenMP threads
// here.

namespace lathe {
namespace {

// e^x to 1.2 units in the last place: x = k ln 2 + r with |r| <= ln 2 / 2 and a polynomial in r.
// Coefficients: Cephes, expf.c (Moshier, "Methods and Programs for Mathematical Functions", 1989).
// 0 below -87.3, clamped above 88.3; not a number stays not a number.
inline float Exp(float x) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number.
  const float clamped = x > 88.3F ? 88.3F : x;
  const float shifted = clamped * 1.44269504088896341F + kRound;
  const float k = shifted - kRound;
  const float r = (clamped - k * 0.693359375F) - k * -2.12194440e-4F;
  float p = 1.9875691500E-4F;
  p = p * r + 1.3981999507E-3F;
  p = p * r + 8.3334519073E-3F;
  p = p * r + 4.1665795894E-2F;
  p = p * r + 1.6666665459E-1F;
  p = p * r + 5.0000001201E-1F;
  const float fraction = p * (r * r) + (r + 1.0F);
  const auto exponent = static_cast<uint32_t>(std::bit_cast<int32_t>(shifted) << 23);
  const float power = std::bit_cast<float>(exponent + 0x3F800000U);
  return x < -87.3F ? 0.0F : fraction * power;
}

inline double Exp(double x) { return std::exp(x); }

template <typename T>
T MaxOf(const T* x, int64_t width) {
  T max = x[0];
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < width; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

// x = e^(scale x - shift); returns the sum. Lanes in T, pieces in 64 bits: a vocabulary is long.
template <typename T>
double ExpAndSum(T* x, int64_t width, T scale, T shift) {
  constexpr int64_t kPiece = 2048;
  double total = 0;
  for (int64_t begin = 0; begin < width; begin += kPiece) {
    const int64_t end = std::min(begin + kPiece, width);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      x[i] = Exp(scale * x[i] - shift);
      sum += x[i];
    }
    total += static_cast<double>(sum);
  }
  return total;
}

template <typename T>
void Scale(T* x, int64_t width, T factor) {
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) x[i] *= factor;
}

}  // namespace

template <typename T>
T RmsNormRow(const T* x, const T* weight, int64_t width, double eps, T* y) {
  const T squares = DotRow(x, x, width);
  const T inverse = 1 / std::sqrt(squares / static_cast<T>(width) + static_cast<T>(eps));
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) y[i] = x[i] * inverse * weight[i];
  return inverse;
}

template <typename T>
void RmsNormGradientRow(const T* grad_y, const T* x, const T* weight, T inverse, int64_t width,
                        T* grad_x) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += grad_y[i] * weight[i] * x[i];
  const T mean = sum * inverse / static_cast<T>(width);  // Of g * n.
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    grad_x[i] = inverse * (grad_y[i] * weight[i] - x[i] * inverse * mean);
  }
}

template <typename T>
void SwiGluRow(const T* gate, const T* up, int64_t width, T* y) {
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) y[i] = gate[i] / (1 + Exp(-gate[i])) * up[i];
}

template <typename T>
void SwiGluGradientRow(const T* grad_y, const T* gate, const T* up, int64_t width, T* grad_gate,
                       T* grad_up) {
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    const T sigmoid = 1 / (1 + Exp(-gate[i]));
    grad_up[i] = grad_y[i] * gate[i] * sigmoid;
    grad_gate[i] = grad_y[i] * up[i] * sigmoid * (1 + gate[i] * (1 - sigmoid));
  }
}

template <typename T>
void RotateRow(const T* x, const T* cos, const T* sin, const PairTurn& turn, T* y) {
  const T sign = turn.inverse ? -1 : 1;
  const int64_t half = turn.half;
  if (turn.interleaved) {
    for (int64_t i = 0; i < half; ++i) {
      const T a = x[2 * i], b = x[2 * i + 1];
      y[2 * i] = a * cos[i] - sign * b * sin[i];
      y[2 * i + 1] = b * cos[i] + sign * a * sin[i];
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const T a = x[i], b = x[half + i];
      y[i] = a * cos[i] - sign * b * sin[i];
      y[half + i] = b * cos[i] + sign * a * sin[i];
    }
  }
  if (y == x) return;
  std::memcpy(y + 2 * half, x + 2 * half, sizeof(T) * static_cast<size_t>(turn.width - 2 * half));
}

template <typename T>
void SoftmaxRow(T* x, int64_t visible, int64_t width, T scale) {
  const T max = MaxOf(x, visible);
  const double sum = ExpAndSum(x, visible, scale, scale * max);
  Scale(x, visible, static_cast<T>(1 / sum));
  std::fill(x + visible, x + width, T{0});
}

template <typename T>
void SoftmaxGradientRow(const T* p, int64_t width, T scale, T* grad) {
  const T mean = DotRow(p, grad, width);
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) grad[i] = p[i] * (grad[i] - mean) * scale;
}

template <typename T>
T DotRow(const T* a, const T* b, int64_t width) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename T>
double CrossEntropyRow(T* logits, int64_t label, int64_t width) {
  const T max = MaxOf(logits, width);
  const T at_label = logits[label] - max;
  const double sum = ExpAndSum(logits, width, T{1}, max);
  Scale(logits, width, static_cast<T>(1 / sum));
  logits[label] -= 1;
  return std::log(sum) - static_cast<double>(at_label);
}

#define LATHE_ROW_KERNELS(T)                                                         \
  template T RmsNormRow<T>(const T*, const T*, int64_t, double, T*);                 \
  template void RmsNormGradientRow<T>(const T*, const T*, const T*, T, int64_t, T*); \
  template void SwiGluRow<T>(const T*, const T*, int64_t, T*);                       \
  template void SwiGluGradientRow<T>(const T*, const T*, const T*, int64_t, T*, T*); \
  template void RotateRow<T>(const T*, const T*, const T*, const PairTurn&, T*);     \
  template void SoftmaxRow<T>(T*, int64_t, int64_t, T);                              \
  template void SoftmaxGradientRow<T>(const T*, int64_t, T, T*);                     \
  template T DotRow<T>(const T*, const T*, int64_t);                                 \
  template double CrossEntropyRow<T>(T*, int64_t, int64_t);
LATHE_ROW_KERNELS(float)
LATHE_ROW_KERNELS(double)
#undef LATHE_ROW_KERNELS

}  // namespace lathe
