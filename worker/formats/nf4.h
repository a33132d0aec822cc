#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

// 4-bit NormalFloat with double quantisation. A matrix of n values, flattened, is cut into blocks
// of
// 64. A block has one scale, the largest magnitude in it; a value is the index of the nearest of 16
// codes in [-1, 1], times the scale. Two indices share a byte, the first in the upper half. The
// scales minus their mean are themselves 8-bit indices into a map of 256 numbers, in blocks of 256
// with a 32-bit scale each: 4 + 8/64 + 32/(64 * 256) = 4.127 bits per value.
// Sources: Dettmers et al., "QLoRA", 2023; bitsandbytes, functional.py and backends/default/ops.py,
// whose bytes these are.

namespace lathe {

inline constexpr size_t kNf4Block = 64;         // Values per scale.
inline constexpr size_t kNf4NestedBlock = 256;  // Scales per scale of scales.

constexpr size_t Nf4CodeBytes(size_t num_values) { return (num_values + 1) / 2; }
constexpr size_t Nf4Blocks(size_t num_values) { return (num_values + kNf4Block - 1) / kNf4Block; }
constexpr size_t Nf4NestedBlocks(size_t num_blocks) {
  return (num_blocks + kNf4NestedBlock - 1) / kNf4NestedBlock;
}

const std::array<float, 16>& Nf4Codes();     // Ascending.
const std::array<float, 256>& DynamicMap();  // Ascending; bitsandbytes' create_dynamic_map().

// codes [Nf4CodeBytes(n)], scales [Nf4Blocks(n)]. REQUIRES: values are finite.
void QuantizeNf4(std::span<const float> values, std::span<uint8_t> codes, std::span<float> scales);

// indices [b], nested [Nf4NestedBlocks(b)] of scales [b]. `mean` of the scales is the caller's:
// bitsandbytes takes torch.mean, whose last bit depends on the processor.
void QuantizeNf4Scales(std::span<const float> scales, float mean, std::span<uint8_t> indices,
                       std::span<float> nested);

// A quantised matrix, in the caller's memory.
struct Nf4View {
  std::span<const uint8_t> codes;
  std::span<const uint8_t> scale_indices;
  std::span<const float> nested;
  float mean = 0;
};

// Values [first, first + out.size()) of the flattened matrix. REQUIRES: `first` is a multiple
// of 64.
void DequantizeNf4(const Nf4View& matrix, size_t first, std::span<float> out);

}  // namespace lathe
