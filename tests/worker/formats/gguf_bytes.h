#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

// Builds GGUF files by hand, valid or not.

namespace lathe {

template <typename T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

inline std::string GgufString(absl::string_view text) {
  std::string bytes = Raw(uint64_t{text.size()});
  bytes.append(text.data(), text.size());
  return bytes;
}

inline std::string GgufHeader(uint32_t version, uint64_t num_tensors, uint64_t num_keys) {
  return std::string("GGUF").append(Raw(version)).append(Raw(num_tensors)).append(Raw(num_keys));
}

// A metadata key of value type `type`; `value` is its bytes.
inline std::string GgufKey(absl::string_view key, uint32_t type, absl::string_view value) {
  return GgufString(key).append(Raw(type)).append(value.data(), value.size());
}

// `sizes`: u64 each, innermost first, as in the file.
inline std::string GgufInfo(absl::string_view name, const std::vector<uint64_t>& sizes,
                            uint32_t type, uint64_t offset) {
  std::string bytes = GgufString(name).append(Raw(static_cast<uint32_t>(sizes.size())));
  for (const uint64_t size : sizes) bytes += Raw(size);
  return bytes.append(Raw(type)).append(Raw(offset));
}

inline std::string Padded(std::string bytes, size_t alignment = 32) {
  bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
  return bytes;
}

}  // namespace lathe
