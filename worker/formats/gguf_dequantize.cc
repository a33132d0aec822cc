// Compiled with -ffp-contract=off: a fused d * q + m would round once instead of twice.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "worker/formats/dtype.h"
#include "worker/formats/gguf.h"

namespace lathe {
namespace {

constexpr int64_t kBlock = 32;
constexpr int64_t kLongBlock = 256;  // Of the types with a K and of IQ4_XS.

uint16_t Load16(const unsigned char* from) {
  return static_cast<uint16_t>(from[0] | (static_cast<unsigned>(from[1]) << 8));
}

float LoadHalf(const unsigned char* from) { return HalfToFloat(Load16(from)); }

// `count` bits of `byte`, from bit `shift` on.
int Bits(unsigned char byte, int64_t shift, int count) {
  return (byte >> shift) & ((1 << count) - 1);
}

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

// `quants` is 4 bits of each value, `high` the fifth: bit i of its 32 belongs to value i.
int FiveBits(const unsigned char* high, const unsigned char* quants, int64_t i) {
  const int64_t half = kBlock / 2;
  return Bits(quants[i % half], i / half * 4, 4) | (Bits(high[i / 8], i % 8, 1) << 4);
}

void DecodeQ50(const unsigned char* block, float* out) {
  const float d = LoadHalf(block);
  for (int64_t i = 0; i < kBlock; ++i) {
    out[i] = d * static_cast<float>(FiveBits(block + 2, block + 6, i) - 16);
  }
}

void DecodeQ51(const unsigned char* block, float* out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  for (int64_t i = 0; i < kBlock; ++i) {
    out[i] = d * static_cast<float>(FiveBits(block + 4, block + 8, i)) + m;
  }
}

// Two-bit quants of a long block: a byte holds value k of four runs of 32, twice.
int TwoBits(const unsigned char* quants, int64_t i) {
  return Bits(quants[i / 128 * 32 + i % 32], i % 128 / 32 * 2, 2);
}

// 16 scales and minima of 4 bits, 64 bytes of quants, d, dmin.
void DecodeQ2K(const unsigned char* block, float* out) {
  const float d = LoadHalf(block + 80);
  const float dmin = LoadHalf(block + 82);
  for (int64_t i = 0; i < kLongBlock; ++i) {
    const float scale = d * static_cast<float>(Bits(block[i / 16], 0, 4));
    const float minimum = dmin * static_cast<float>(Bits(block[i / 16], 4, 4));
    out[i] = scale * static_cast<float>(TwoBits(block + 16, i)) - minimum;
  }
}

// 32 bytes of third bits (set: nothing is taken off), 64 of quants, 12 of scales, d. Scale j of 16
// has its low 4 bits in the first 8 of the 12 bytes, its high 2 in the other 4.
void DecodeQ3K(const unsigned char* block, float* out) {
  const float d = LoadHalf(block + 108);
  const unsigned char* scales = block + 96;
  for (int64_t i = 0; i < kLongBlock; ++i) {
    const int64_t j = i / 16;
    const int low = Bits(scales[j % 8], j / 8 * 4, 4);
    const int high = Bits(scales[8 + j % 4], j / 4 * 2, 2);
    const float scale = d * static_cast<float>((low | (high << 4)) - 32);
    const int third = Bits(block[i % 32], i / 32, 1) == 1 ? 0 : 4;
    out[i] = scale * static_cast<float>(TwoBits(block + 32, i) - third);
  }
}

struct SubBlock {
  float scale = 0;
  float minimum = 0;
};

// Q4_K and Q5_K begin alike: d, dmin and 12 bytes with a scale and a minimum of 6 bits for each of
// 8 runs of 32. The first four pairs fill the low 6 bits of bytes 0-3 and 4-7; of the others, 4
// bits are in bytes 8-11 and 2 on top of the first ones.
SubBlock UnpackSubBlock(const unsigned char* block, int64_t j) {
  const unsigned char* packed = block + 4;
  int scale = Bits(packed[j % 4], 0, 6);
  int minimum = Bits(packed[4 + j % 4], 0, 6);
  if (j >= 4) {
    scale = Bits(packed[4 + j], 0, 4) | (Bits(packed[j - 4], 6, 2) << 4);
    minimum = Bits(packed[4 + j], 4, 4) | (Bits(packed[j], 6, 2) << 4);
  }
  return {.scale = LoadHalf(block) * static_cast<float>(scale),
          .minimum = LoadHalf(block + 2) * static_cast<float>(minimum)};
}

// 128 bytes of quants: the low nibbles of 32 bytes, then the high ones, four times. `high`: null,
// or 32 bytes with the fifth bit of value k of run j in bit j of byte k.
void DecodeQ45K(const unsigned char* block, const unsigned char* high, const unsigned char* quants,
                float* out) {
  for (int64_t j = 0; j < kLongBlock / 32; ++j) {
    const SubBlock sub = UnpackSubBlock(block, j);
    for (int64_t k = 0; k < 32; ++k) {
      const int low = Bits(quants[j / 2 * 32 + k], j % 2 * 4, 4);
      const int fifth = high == nullptr ? 0 : Bits(high[k], j, 1);
      *out++ = sub.scale * static_cast<float>(low | (fifth << 4)) - sub.minimum;
    }
  }
}

void DecodeQ4K(const unsigned char* block, float* out) {
  DecodeQ45K(block, nullptr, block + 16, out);
}

void DecodeQ5K(const unsigned char* block, float* out) {
  DecodeQ45K(block, block + 16, block + 48, out);
}

// 128 bytes of low nibbles (64 low, then 64 high ones, twice), 64 of upper pairs of bits, 16 signed
// scales, d.
void DecodeQ6K(const unsigned char* block, float* out) {
  const float d = LoadHalf(block + 208);
  for (int64_t i = 0; i < kLongBlock; ++i) {
    const float scale = d * static_cast<float>(static_cast<int8_t>(block[192 + i / 16]));
    const int low = Bits(block[i / 128 * 64 + i % 64], i % 128 / 64 * 4, 4);
    out[i] = scale * static_cast<float>((low | (TwoBits(block + 128, i) << 4)) - 32);
  }
}

// ggml-common.h, kvalues_iq4nl: denser around zero.
constexpr float kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};

void DecodeNonLinear(float scale, const unsigned char* quants, float* out) {
  for (int64_t i = 0; i < kBlock; ++i) {
    out[i] = scale * kNonLinear[Bits(quants[i % 16], i / 16 * 4, 4)];
  }
}

void DecodeIq4Nl(const unsigned char* block, float* out) {
  DecodeNonLinear(LoadHalf(block), block + 2, out);
}

// d, the high 2 bits of 8 scales, their low 4 bits, 128 bytes of quants.
void DecodeIq4Xs(const unsigned char* block, float* out) {
  const float d = LoadHalf(block);
  for (int64_t j = 0; j < kLongBlock / kBlock; ++j) {
    const int low = Bits(block[4 + j / 2], j % 2 * 4, 4);
    const int high = Bits(block[2 + j / 4], j % 4 * 2, 2);
    const float scale = d * static_cast<float>((low | (high << 4)) - 32);
    DecodeNonLinear(scale, block + 8 + j * 16, out + j * kBlock);
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
    {GgmlType::kQ5_0, "Q5_0", {kBlock, 22}, DecodeQ50},
    {GgmlType::kQ5_1, "Q5_1", {kBlock, 24}, DecodeQ51},
    {GgmlType::kQ2_K, "Q2_K", {kLongBlock, 84}, DecodeQ2K},
    {GgmlType::kQ3_K, "Q3_K", {kLongBlock, 110}, DecodeQ3K},
    {GgmlType::kQ4_K, "Q4_K", {kLongBlock, 144}, DecodeQ4K},
    {GgmlType::kQ5_K, "Q5_K", {kLongBlock, 176}, DecodeQ5K},
    {GgmlType::kQ6_K, "Q6_K", {kLongBlock, 210}, DecodeQ6K},
    {GgmlType::kIq4Nl, "IQ4_NL", {kBlock, 18}, DecodeIq4Nl},
    {GgmlType::kIq4Xs, "IQ4_XS", {kLongBlock, 136}, DecodeIq4Xs},
};

// Types that are not read, for the message. ggml.h, enum ggml_type.
struct Foreign {
  uint32_t type;
  absl::string_view name;
};
constexpr Foreign kForeign[] = {
    {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"},
    {21, "IQ3_S"}, {22, "IQ2_S"}, {24, "I8"},      {25, "I16"},    {26, "I32"},     {27, "I64"},
    {28, "F64"},   {29, "IQ1_M"}, {34, "TQ1_0"},   {35, "TQ2_0"},  {39, "MXFP4"},
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

std::string GgmlTypeNames() {
  std::string names;
  for (const Format& format : kFormats) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", format.name);
  }
  return names;
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
