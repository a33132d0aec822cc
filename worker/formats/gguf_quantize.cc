#include <algorithm>
#include <cmath>
#include <cstring>

#include "worker/formats/dtype.h"
#include "worker/formats/gguf_writer.h"

namespace lathe {
namespace {

constexpr size_t kBlockValues = 32;

bool PutHalf(float value, std::string& bytes) {
  const uint16_t bits = FloatToHalf(value);
  bytes.push_back(static_cast<char>(bits & 0xFFU));
  bytes.push_back(static_cast<char>(bits >> 8U));
  return std::isfinite(HalfToFloat(bits));
}

bool PutQ8Block(const float* values, std::string& bytes) {
  float largest = 0;
  for (size_t i = 0; i < kBlockValues; ++i) largest = std::max(largest, std::abs(values[i]));
  const float scale = largest / 127.0F;
  const float inverse = scale == 0 ? 0 : 1.0F / scale;
  const bool fits = PutHalf(scale, bytes);
  for (size_t i = 0; i < kBlockValues; ++i) {
    // A scale so small that its inverse is infinite is zero as a half: so are the values.
    const float quantum = std::isfinite(inverse) ? std::round(values[i] * inverse) : 0.0F;
    bytes.push_back(static_cast<char>(static_cast<int8_t>(quantum)));
  }
  return fits;
}

}  // namespace

bool EncodeGgmlRow(GgmlType type, const std::vector<float>& row, std::string& bytes) {
  bytes.clear();
  bool fits = true;
  if (type == GgmlType::kF32) {
    bytes.resize(row.size() * sizeof(float));
    std::memcpy(bytes.data(), row.data(), bytes.size());
  } else if (type == GgmlType::kF16) {
    for (const float value : row) fits = PutHalf(value, bytes) && fits;
  } else {
    for (size_t i = 0; i < row.size(); i += kBlockValues) {
      fits = PutQ8Block(row.data() + i, bytes) && fits;
    }
  }
  return fits;
}

}  // namespace lathe
