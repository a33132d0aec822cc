// Compiled with -ffp-contract=off: a fused d * q + m would round once instead of twice.
#include <cstring>

#include "worker/formats/dtype.h"
#include "worker/formats/gguf.h"

namespace lathe {
namespace {

constexpr int64_t kBlock = 32;

uint16_t Load16(const unsigned char* from) {
  return static_cast<uint16_t>(from[0] | (static_cast<unsigned>(from[1]) << 8));
}

float LoadHalf(const unsigned char* from) { return HalfToFloat(Load16(from)); }

float LoadFloat(const unsigned char* from) {
  float value = 0;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// Each takes one block and writes its values.
void DecodeQ80(const unsigned char* block, float* out) {
  const float d = LoadHalf(block);
  for (int64_t i = 0; i < kBlock; ++i) {
    out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
  }
}

void DecodeQ40(const unsigned char* block, float* out) {
  const float d = LoadHalf(block);
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    const int byte = block[2 + i];
    out[i] = d * static_cast<float>((byte & 0xf) - 8);
    out[i + kBlock / 2] = d * static_cast<float>((byte >> 4) - 8);
  }
}

void DecodeQ41(const unsigned char* block, float* out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    const int byte = block[4 + i];
    out[i] = d * static_cast<float>(byte & 0xf) + m;
    out[i + kBlock / 2] = d * static_cast<float>(byte >> 4) + m;
  }
}

void DecodeF32(const unsigned char* block, float* out) { *out = LoadFloat(block); }
void DecodeF16(const unsigned char* block, float* out) { *out = LoadHalf(block); }
void DecodeBf16(const unsigned char* block, float* out) { *out = Bf16ToFloat(Load16(block)); }

struct Format {
  GgmlType type;
  absl::string_view name;
  GgmlBlock block;
  void (*decode)(const unsigned char* block, float* out);
};

constexpr Format kFormats[] = {
    {GgmlType::kF32, "F32", {1, 4}, DecodeF32},
    {GgmlType::kF16, "F16", {1, 2}, DecodeF16},
    {GgmlType::kBf16, "BF16", {1, 2}, DecodeBf16},
    {GgmlType::kQ8_0, "Q8_0", {kBlock, 34}, DecodeQ80},
    {GgmlType::kQ4_0, "Q4_0", {kBlock, 18}, DecodeQ40},
    {GgmlType::kQ4_1, "Q4_1", {kBlock, 20}, DecodeQ41},
};

// Types that are not read, for the message. ggml.h, enum ggml_type.
struct Foreign {
  uint32_t type;
  absl::string_view name;
};
constexpr Foreign kForeign[] = {
    {6, "Q5_0"},   {7, "Q5_1"},    {9, "Q8_1"},   {10, "Q2_K"},    {11, "Q3_K"},   {12, "Q4_K"},
    {13, "Q5_K"},  {14, "Q6_K"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
    {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"}, {24, "I8"},
    {25, "I16"},   {26, "I32"},    {27, "I64"},   {28, "F64"},     {29, "IQ1_M"},  {34, "TQ1_0"},
    {35, "TQ2_0"}, {39, "MXFP4"},
};

const Format* FindFormat(GgmlType type) {
  for (const Format& format : kFormats) {
    if (format.type == type) return &format;
  }
  return nullptr;
}

}  // namespace

GgmlBlock GgmlBlockOf(GgmlType type) {
  const Format* format = FindFormat(type);
  return format == nullptr ? GgmlBlock() : format->block;
}

absl::string_view GgmlTypeName(GgmlType type) {
  if (const Format* format = FindFormat(type)) return format->name;
  for (const Foreign& foreign : kForeign) {
    if (foreign.type == static_cast<uint32_t>(type)) return foreign.name;
  }
  return "unknown";
}

void DequantizeRows(const GgufTensor& tensor, int64_t first_row, int64_t num_rows, float* out) {
  const Format& format = *FindFormat(tensor.type);
  const int64_t row_blocks = tensor.shape.back() / format.block.num_values;
  const auto* block = reinterpret_cast<const unsigned char*>(tensor.bytes.data()) +
                      first_row * row_blocks * format.block.num_bytes;
  for (int64_t i = 0; i < num_rows * row_blocks; ++i) {
    format.decode(block, out);
    block += format.block.num_bytes;
    out += format.block.num_values;
  }
}

}  // namespace lathe
