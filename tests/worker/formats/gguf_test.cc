#include "worker/formats/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "tests/worker/formats/gguf_bytes.h"

namespace lathe {
namespace {

constexpr uint32_t kU32 = 4;
constexpr uint32_t kF32Value = 6;
constexpr uint32_t kBoolValue = 7;
constexpr uint32_t kStringValue = 8;
constexpr uint32_t kArrayValue = 9;
constexpr uint32_t kU64 = 10;
constexpr uint64_t kHuge = ~uint64_t{0};

class GgufTest : public testing::Test {
 protected:
  GgufTest() : temp_(*TempFolder::Make("gguf_test")) {}

  absl::StatusOr<GgufFile> Open(const std::string& bytes) {
    const std::filesystem::path path = temp_.path() / "x.gguf";
    // A new file each time, without fsync: there are thousands of them.
    std::filesystem::remove(path);
    std::ofstream(path, std::ios::binary) << bytes;
    return GgufFile::Open(path);
  }
  void ExpectRefused(const std::string& bytes, const std::string& words,
                     absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const absl::Status status = Open(bytes).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), words)) << status;
    EXPECT_FALSE(absl::StrContains(status.message(), "\n")) << status;
  }

  TempFolder temp_;
};

// One key of each kind and one tensor [2, 32] of type Q8_0.
std::string Example() {
  std::string list = Raw(kStringValue).append(Raw(uint64_t{2}));
  list += GgufString("a");
  list += GgufString("bc");
  std::string bytes = GgufHeader(3, 1, 4);
  bytes += GgufKey("n", kU32, Raw(uint32_t{7}));
  bytes += GgufKey("x", kF32Value, Raw(1.5F));
  bytes += GgufKey("b", kBoolValue, Raw(uint8_t{1}));
  bytes += GgufKey("l", kArrayValue, list);
  bytes += GgufInfo("t", {32, 2}, 8, 0);
  return Padded(bytes).append(68, '\1');
}

std::string WithTensor(const std::vector<uint64_t>& sizes, uint32_t type, uint64_t offset,
                       size_t num_bytes) {
  std::string bytes = GgufHeader(3, 1, 0);
  bytes += GgufInfo("t", sizes, type, offset);
  return Padded(bytes).append(num_bytes, '\0');
}

std::string WithKey(uint32_t type, const std::string& value) {
  std::string bytes = GgufHeader(3, 0, 1);
  return bytes += GgufKey("key", type, value);
}

TEST_F(GgufTest, ReadsTypedMetadataAndTensors) {
  const auto file = Open(Example());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(std::get<int64_t>(file->metadata().at("n")), 7);
  EXPECT_EQ(std::get<double>(file->metadata().at("x")), 1.5);
  EXPECT_TRUE(std::get<bool>(file->metadata().at("b")));
  EXPECT_EQ(std::get<std::vector<absl::string_view>>(file->metadata().at("l"))[1], "bc");
  const GgufTensor& tensor = file->tensors().at("t");
  EXPECT_EQ(tensor.shape, (std::vector<int64_t>{2, 32}));
  EXPECT_EQ(tensor.bytes.size(), 68U);
}

TEST_F(GgufTest, EveryCutOfAFileIsRefused) {
  const std::string whole = Example();
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_EQ(Open(whole.substr(0, size)).status().code(), absl::StatusCode::kInvalidArgument)
        << size;
  }
}

TEST_F(GgufTest, NoChangedByteCrashesTheReader) {
  const std::string whole = Example();
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const unsigned flip : {0x01U, 0x08U, 0x80U, 0xffU}) {
      std::string changed = whole;
      changed[i] = static_cast<char>(static_cast<unsigned char>(changed[i]) ^ flip);
      const auto file = Open(changed);
      if (!file.ok()) continue;
      for (const auto& [name, tensor] : file->tensors()) {
        int64_t rows = 1;
        for (const int64_t size : tensor.shape) rows *= size;
        std::vector<float> out(static_cast<size_t>(rows));
        DequantizeRows(tensor, 0, rows / tensor.shape.back(), out.data());
      }
    }
  }
}

TEST_F(GgufTest, RefusesOtherMagicsAndVersions) {
  ExpectRefused("PK\3\4 and so on", "no GGUF file");
  ExpectRefused(GgufHeader(1, 0, 0), "version 1", absl::StatusCode::kUnimplemented);
  ExpectRefused(GgufHeader(0x03000000, 0, 0), "little endian", absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(Open(GgufHeader(2, 0, 0)).ok());
}

TEST_F(GgufTest, RefusesCountsAndLengthsBeyondTheBounds) {
  ExpectRefused(GgufHeader(3, kHuge, 0), "at most 65536");
  ExpectRefused(GgufHeader(3, 0, 65537), "at most 65536");
  ExpectRefused(GgufHeader(3, 0, 1).append(Raw(kHuge)), "metadata key: a string has");
  ExpectRefused(WithKey(kStringValue, Raw(kHuge)), "key: a string has");
  ExpectRefused(WithKey(kStringValue, Raw(uint64_t{100})), "cut");
  ExpectRefused(WithKey(kArrayValue, Raw(kU32).append(Raw(kHuge))), "at most 4194304");
  ExpectRefused(WithKey(kArrayValue, Raw(kU32).append(Raw(uint64_t{1000}))), "cut");
  ExpectRefused(WithKey(kArrayValue, Raw(kArrayValue).append(Raw(uint64_t{1}))), "list of lists");
  ExpectRefused(WithKey(kArrayValue, Raw(uint32_t{99}).append(Raw(uint64_t{1}))), "value type 99");
  ExpectRefused(WithKey(13, ""), "value type 13");
  ExpectRefused(WithKey(kBoolValue, "\2"), "must be 0 or 1");
  ExpectRefused(WithKey(kU64, Raw(kHuge)), "below 2^63");
}

// Bytes become numbers of eight bytes each: the lists of a large file must not fill the memory.
TEST_F(GgufTest, ListsTogetherHaveABound) {
  const uint64_t most = uint64_t{1} << 22;
  std::string file = GgufHeader(3, 0, 5);
  for (const char* key : {"a", "b", "c", "d", "e"}) {
    const std::string head = Raw(uint32_t{0}) + Raw(most);
    file += GgufKey(key, kArrayValue, head + std::string(most, '\0'));
  }
  ExpectRefused(file, "e: has a list that makes more than the 16777216 values");
}

TEST_F(GgufTest, RefusesTensorsThatDoNotFit) {
  ExpectRefused(WithTensor({}, 0, 0, 0), "0 dimensions");
  ExpectRefused(WithTensor({1, 1, 1, 1, 1}, 0, 0, 4), "5 dimensions");
  ExpectRefused(WithTensor({0}, 0, 0, 0), "size 0");
  ExpectRefused(WithTensor({kHuge}, 0, 0, 0), "must be in [1, 2^40]");
  ExpectRefused(WithTensor({1ULL << 40, 1ULL << 40}, 0, 0, 0), "63 bits");
  ExpectRefused(WithTensor({33}, 8, 0, 68), "multiple of 32");
  for (const uint32_t type : {10U, 11U, 12U, 13U, 14U, 23U}) {
    ExpectRefused(WithTensor({128, 2}, type, 0, 210), "multiple of 256");
  }
  ExpectRefused(WithTensor({256}, 14, 0, 209), "cut");
  ExpectRefused(WithTensor({1ULL << 40, 1ULL << 29}, 12, 0, 144), "63 bits");
  ExpectRefused(WithTensor({4}, 0, 0, 15), "cut");
  ExpectRefused(WithTensor({4}, 0, 16, 64), "multiple of 32");
  ExpectRefused(WithTensor({4}, 0, kHuge - 31, 64), "cut");
  EXPECT_TRUE(Open(WithTensor({4}, 0, 0, 16)).ok());
}

TEST_F(GgufTest, RefusesAnUnknownTensorTypeByName) {
  ExpectRefused(WithTensor({256}, 16, 0, 66), "IQ2_XXS (16); supported are F32, F16",
                absl::StatusCode::kUnimplemented);
  ExpectRefused(WithTensor({256}, 12345, 0, 144), "unknown (12345)",
                absl::StatusCode::kUnimplemented);
}

TEST_F(GgufTest, RefusesOverlapsDuplicatesAndBadAlignment) {
  std::string two = GgufHeader(3, 2, 0);
  two += GgufInfo("a", {16}, 0, 0);
  ExpectRefused(Padded(two + GgufInfo("b", {16}, 0, 32)).append(96, '\0'), "overlaps");
  ExpectRefused(Padded(two + GgufInfo("a", {16}, 0, 64)).append(128, '\0'), "twice");
  std::string keys = GgufHeader(3, 0, 2);
  keys += GgufKey("k", kU32, Raw(uint32_t{1}));
  ExpectRefused(keys + GgufKey("k", kU32, Raw(uint32_t{1})), "k: is there twice");
  for (const uint32_t alignment : {0U, 4U, 48U, 1U << 20}) {
    std::string bytes = GgufHeader(3, 0, 1);
    ExpectRefused(bytes + GgufKey("general.alignment", kU32, Raw(alignment)), "power of 2");
  }
}

// The layouts of ggml-common.h, worked out by hand: half 0x3c00 is 1, 0x4000 is 2, 0x3800 is 0.5.
TEST(DequantizeTest, BlocksDecodeAsInGgml) {
  std::vector<float> out(32);
  const auto decode = [&](GgmlType type, const std::string& bytes) {
    DequantizeRows({"t", type, {1, 32}, bytes}, 0, 1, out.data());
  };
  const std::string nibbles(16, '\x2f');  // Low 15, high 2.
  decode(GgmlType::kQ4_0, std::string("\x00\x40", 2) + nibbles);
  EXPECT_EQ(out[0], 14.0F);  // 2 * (15 - 8)
  EXPECT_EQ(out[15], 14.0F);
  EXPECT_EQ(out[16], -12.0F);  // 2 * (2 - 8)
  decode(GgmlType::kQ4_1, std::string("\x00\x40\x00\x38", 4) + nibbles);
  EXPECT_EQ(out[15], 30.5F);  // 2 * 15 + 0.5
  EXPECT_EQ(out[16], 4.5F);
  decode(GgmlType::kQ8_0, std::string("\x00\x38", 2) + std::string(32, '\x80'));
  EXPECT_EQ(out[31], -64.0F);
}

uint32_t BitsOf(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Random blocks of every type, each beside what the gguf Python package makes of it.
TEST(DequantizeTest, EveryTypeHasTheBitsOfTheReference) {
  const auto file = GgufFile::Open(LATHE_TEST_DATA "/gguf/blocks.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  int num_types = 0;
  for (const auto& [name, tensor] : file->tensors()) {
    const auto expected = file->tensors().find(name + ".f32");
    if (expected == file->tensors().end()) continue;
    ++num_types;
    EXPECT_EQ(GgmlTypeName(tensor.type), name);
    std::vector<float> values(static_cast<size_t>(tensor.shape[0] * tensor.shape[1]));
    std::vector<float> reference(values.size());
    DequantizeRows(tensor, 0, tensor.shape[0], values.data());
    DequantizeRows(expected->second, 0, tensor.shape[0], reference.data());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(BitsOf(values[i]), BitsOf(reference[i]))
          << name << "[" << i << "]: " << values[i] << ", reference " << reference[i];
    }
  }
  EXPECT_EQ(num_types, 12);
}

}  // namespace
}  // namespace lathe
