#pragma once

#include <cstddef>

#include "absl/strings/string_view.h"

namespace lathe {

// Element types of tensors in files.
enum class Dtype { kF64, kF32, kF16, kBf16, kI64, kI32, kU8 };

size_t DtypeSize(Dtype dtype);             // In bytes.
absl::string_view DtypeName(Dtype dtype);  // As in safetensors: "F32".

}  // namespace lathe
