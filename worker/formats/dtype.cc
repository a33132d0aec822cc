#include "worker/formats/dtype.h"

#include <array>
#include <bit>
#include <cmath>

namespace lathe {
namespace {

struct Entry {
  Dtype dtype;
  size_t size;
  absl::string_view name;
};

// In the order of the enum.
constexpr std::array<Entry, 7> kEntries = {{{Dtype::kF64, 8, "F64"},
                                            {Dtype::kF32, 4, "F32"},
                                            {Dtype::kF16, 2, "F16"},
                                            {Dtype::kBf16, 2, "BF16"},
                                            {Dtype::kI64, 8, "I64"},
                                            {Dtype::kI32, 4, "I32"},
                                            {Dtype::kU8, 1, "U8"}}};

}  // namespace

size_t DtypeSize(Dtype dtype) { return kEntries[static_cast<size_t>(dtype)].size; }
absl::string_view DtypeName(Dtype dtype) { return kEntries[static_cast<size_t>(dtype)].name; }
absl::string_view DtypeNames() { return "F64, F32, F16, BF16, I64, I32, U8"; }

std::optional<Dtype> ParseDtype(absl::string_view name) {
  for (const Entry& entry : kEntries) {
    if (entry.name == name) return entry.dtype;
  }
  return std::nullopt;
}

float HalfToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fU;
  const uint32_t fraction = bits & 0x3ffU;
  if (exponent == 0x1fU) return std::bit_cast<float>(sign | 0x7f800000U | (fraction << 13));
  if (exponent == 0) {  // Zero or subnormal: fraction * 2^-24.
    const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<uint16_t>(sign | 0x7e00U);   // NaN.
  if (magnitude >= 0x477ff000U) return static_cast<uint16_t>(sign | 0x7c00U);  // From 65520.
  if (magnitude < 0x38800000U) {  // Below 2^-14: a multiple of 2^-24, rounded by the addition.
    const float steps = std::bit_cast<float>(magnitude) + 0.5F;  // In [0.5, 0.5 + 2^-14].
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(steps) - 0x3f000000U));
  }
  const uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13) & 1U);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

}  // namespace lathe
