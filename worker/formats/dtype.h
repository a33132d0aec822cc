#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace lathe {

// Element types of tensors in files.
enum class Dtype { kF64, kF32, kF16, kBf16, kI64, kI32, kU8 };

size_t DtypeSize(Dtype dtype);             // In bytes.
absl::string_view DtypeName(Dtype dtype);  // As in safetensors: "F32".
std::optional<Dtype> ParseDtype(absl::string_view name);
// "F64, F32, ...": for messages.
absl::string_view DtypeNames();

// Exact: every 16-bit float is a 32-bit float. NaN payloads stay.
float HalfToFloat(uint16_t bits);
float Bf16ToFloat(uint16_t bits);
// To the nearest, ties to even; too large becomes infinite.
uint16_t FloatToHalf(float value);
uint16_t FloatToBf16(float value);

}  // namespace lathe
