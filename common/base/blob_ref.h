#pragma once

#include <cstdint>
#include <string>

namespace lathe {

// Bytes, named by their content.
struct BlobRef {
  std::string sha256;  // 64 lower-case hexadecimal digits.
  int64_t size = 0;

  friend bool operator==(const BlobRef&, const BlobRef&) = default;
};

}  // namespace lathe
