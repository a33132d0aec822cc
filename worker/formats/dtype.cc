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

}  // namespace lathe
