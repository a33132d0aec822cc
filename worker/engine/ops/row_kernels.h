#pragma once

#include <cstdint>

// Inner loops over one row, one pass through memory each where ATen needs several. No allocation,
// no thread: callers split the rows. Compiled for AVX2 and FMA. T is float or double; pointers may
// be equal where a comment says so, and overlap nowhere else. The order of every sum is fixed, so
// the same row gives the same bits. Formulas: elementwise.h, attention.h, token_loss.h.

namespace lathe {

// y = weight * x * inverse; returns inverse = 1 / sqrt(mean(x^2) + eps).
template <typename T>
T RmsNormRow(const T* x, const T* weight, int64_t width, double eps, T* y);

// With n = x * inverse and g = weight * grad_y: grad_x = inverse * (g - n * mean(g * n)). grad_x
// may be grad_y.
template <typename T>
void RmsNormGradientRow(const T* grad_y, const T* x, const T* weight, T inverse, int64_t width,
                        T* grad_x);

// y = silu(gate) * up.
template <typename T>
void SwiGluRow(const T* gate, const T* up, int64_t width, T* y);

template <typename T>
void SwiGluGradientRow(const T* grad_y, const T* gate, const T* up, int64_t width, T* grad_gate,
                       T* grad_up);

// Turns the first 2 * half values of a head by the angles of cos and sin, or back; the rest of
// `width` passes. Pairs are i and i + half, or neighbours. y may be x.
struct PairTurn {
  int64_t half = 0;
  int64_t width = 0;
  bool interleaved = false;
  bool inverse = false;
};
template <typename T>
void RotateRow(const T* x, const T* cos, const T* sin, const PairTurn& turn, T* y);

// In place: softmax(scale * x) over the first `visible` values, 0 for the others up to `width`.
// REQUIRES: visible >= 1.
template <typename T>
void SoftmaxRow(T* x, int64_t visible, int64_t width, T scale);

// In place: grad = scale * p * (grad - sum of p * grad): through a softmax of scale * x.
template <typename T>
void SoftmaxGradientRow(const T* p, int64_t width, T scale, T* grad);

template <typename T>
T DotRow(const T* a, const T* b, int64_t width);

// In place: logits become d loss / d logits = softmax - one_hot(label). Returns the loss, -log
// softmax(logits)[label]. REQUIRES: 0 <= label < width.
template <typename T>
double CrossEntropyRow(T* logits, int64_t label, int64_t width);

}  // namespace lathe
