#include "worker/formats/nf4.h"

#include <algorithm>
#include <cmath>

namespace lathe {
namespace {

constexpr float kSmallestScale = 1e-38F;

// Halfway between neighbours.
template <size_t N>
std::array<float, N - 1> Midpoints(const std::array<float, N>& codes) {
  std::array<float, N - 1> midpoints{};
  for (size_t i = 0; i + 1 < N; ++i) midpoints[i] = (codes[i] + codes[i + 1]) / 2;
  return midpoints;
}

// The nearest code; halfway the lower one.
template <size_t N>
uint8_t IndexOf(const std::array<float, N>& midpoints, float value) {
  return static_cast<uint8_t>(std::lower_bound(midpoints.begin(), midpoints.end(), value) -
                              midpoints.begin());
}

float LargestMagnitude(std::span<const float> values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

// Values of a block in [-1, 1]. A full block is multiplied with the inverse of its scale and a
// last, shorter one divided by it, as the source does: the quotients can differ in their last bit.
class Scaler {
 public:
  Scaler(float scale, bool full)
      : scale_(std::max(scale, kSmallestScale)), inverse_(1 / scale_), full_(full) {}
  float operator()(float value) const {
    return std::clamp(full_ ? value * inverse_ : value / scale_, -1.0F, 1.0F);
  }

 private:
  float scale_;
  float inverse_;
  bool full_;
};

// Points from 0.1 to 1, equally apart, as torch.linspace rounds them: the first half from the
// start, the second from the end, product and sum rounded together.
std::array<float, 65> EqualPoints(int count) {
  std::array<float, 65> points{};
  const float step = (1.0F - 0.1F) / static_cast<float>(count - 1);
  for (int i = 0; i < count; ++i) {
    const bool first_half = i < count / 2;
    points[static_cast<size_t>(i)] = static_cast<float>(
        first_half ? double{0.1F} + double{step} * i : 1.0 - double{step} * (count - 1 - i));
  }
  return points;
}

// For every power of ten from 1e-6 to 1 twice as many numbers as for the one before, of both signs;
// 0 and 1.
std::array<float, 256> MakeDynamicMap() {
  constexpr std::array<float, 7> kPowers = {1e-6F, 1e-5F, 1e-4F, 1e-3F, 1e-2F, 1e-1F, 1.0F};
  std::array<float, 256> map{};
  size_t size = 0;
  for (size_t i = 0; i < kPowers.size(); ++i) {
    const int count = (1 << i) + 1;
    const std::array<float, 65> points = EqualPoints(count);
    for (size_t k = 0; k + 1 < static_cast<size_t>(count); ++k) {
      const float value = kPowers[i] * ((points[k] + points[k + 1]) / 2);
      map[size++] = value;
      map[size++] = -value;
    }
  }
  map[size++] = 0;
  map[size++] = 1;
  std::sort(map.begin(), map.end());
  return map;
}

}  // namespace

const std::array<float, 16>& Nf4Codes() {
  static constexpr std::array<float, 16> kCodes = {-1.0F,
                                                   -0.6961928009986877F,
                                                   -0.5250730514526367F,
                                                   -0.39491748809814453F,
                                                   -0.28444138169288635F,
                                                   -0.18477343022823334F,
                                                   -0.09105003625154495F,
                                                   0.0F,
                                                   0.07958029955625534F,
                                                   0.16093020141124725F,
                                                   0.24611230194568634F,
                                                   0.33791524171829224F,
                                                   0.44070982933044434F,
                                                   0.5626170039176941F,
                                                   0.7229568362236023F,
                                                   1.0F};
  return kCodes;
}

const std::array<float, 256>& DynamicMap() {
  static const std::array<float, 256> map = MakeDynamicMap();
  return map;
}

void QuantizeNf4(std::span<const float> values, std::span<uint8_t> codes, std::span<float> scales) {
  const auto midpoints = Midpoints(Nf4Codes());
  // The lower half of an odd last byte is the index of 0.
  if (values.size() % 2 == 1) codes.back() = IndexOf(midpoints, 0);
  for (size_t block = 0; block < scales.size(); ++block) {
    const size_t first = block * kNf4Block;
    const auto part = values.subspan(first, std::min(kNf4Block, values.size() - first));
    const bool full = part.size() == kNf4Block;
    const float largest = LargestMagnitude(part);
    scales[block] = full ? largest : std::max(largest, kSmallestScale);
    const Scaler scaled(largest, full);
    for (size_t i = 0; i < part.size(); ++i) {
      const uint8_t index = IndexOf(midpoints, scaled(part[i]));
      uint8_t& byte = codes[(first + i) / 2];
      byte = static_cast<uint8_t>(i % 2 == 0 ? (byte & 0x0fU) | (index << 4U)
                                             : (byte & 0xf0U) | index);
    }
  }
}

void QuantizeNf4Scales(std::span<const float> scales, float mean, std::span<uint8_t> indices,
                       std::span<float> nested) {
  const auto midpoints = Midpoints(DynamicMap());
  std::array<float, kNf4NestedBlock> centered{};
  for (size_t block = 0; block < nested.size(); ++block) {
    const size_t first = block * kNf4NestedBlock;
    const size_t count = std::min(kNf4NestedBlock, scales.size() - first);
    for (size_t i = 0; i < count; ++i) centered[i] = scales[first + i] - mean;
    const bool full = count == kNf4NestedBlock;
    const float largest = LargestMagnitude(std::span(centered).first(count));
    nested[block] = full ? largest : std::max(largest, kSmallestScale);
    const Scaler scaled(largest, full);
    for (size_t i = 0; i < count; ++i) indices[first + i] = IndexOf(midpoints, scaled(centered[i]));
  }
}

void DequantizeNf4(const Nf4View& matrix, size_t first, std::span<float> out) {
  const std::array<float, 256>& map = DynamicMap();
  const std::array<float, 16>& codes = Nf4Codes();
  std::array<float, 16> values{};
  for (size_t begin = 0; begin < out.size(); begin += kNf4Block) {
    const size_t block = (first + begin) / kNf4Block;
    const float scale =
        map[matrix.scale_indices[block]] * matrix.nested[block / kNf4NestedBlock] + matrix.mean;
    for (size_t k = 0; k < values.size(); ++k) values[k] = codes[k] * scale;
    const uint8_t* bytes = matrix.codes.data() + (first + begin) / 2;
    const size_t count = std::min(kNf4Block, out.size() - begin);
    float* const target = out.data() + begin;
    for (size_t i = 0; i + 1 < count; i += 2) {
      target[i] = values[bytes[i / 2] >> 4U];
      target[i + 1] = values[bytes[i / 2] & 0x0fU];
    }
    if (count % 2 == 1) target[count - 1] = values[bytes[count / 2] >> 4U];
  }
}

}  // namespace lathe
