#include "worker/formats/nf4.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "worker/formats/safetensors.h"

namespace lathe {
namespace {

// What bitsandbytes made; tests/oracle/README.md.
class Nf4GoldenTest : public testing::TestWithParam<const char*> {
 protected:
  template <typename T>
  std::vector<T> Read(const std::string& name) const {
    const TensorView* view = file_.Find(name);
    EXPECT_NE(view, nullptr) << name;
    std::vector<T> values(view->bytes.size() / sizeof(T));
    std::memcpy(values.data(), view->bytes.data(), view->bytes.size());
    return values;
  }
  template <typename T>
  std::vector<T> Part(const char* what) const {
    return Read<T>(std::string(GetParam()) + "." + what);
  }
  std::vector<float> Values() const {
    if (std::string(GetParam()) != "many") return Part<float>("values");
    std::vector<float> values;  // Kept as sixteenths, from -8.
    for (const uint8_t step : Part<uint8_t>("values")) {
      values.push_back((static_cast<float>(step) - 8) / 16);
    }
    return values;
  }

  const SafetensorsFile file_ = *SafetensorsFile::Open(LATHE_TEST_DATA "/goldens/nf4.safetensors");
};

INSTANTIATE_TEST_SUITE_P(Matrices, Nf4GoldenTest, testing::Values("wide", "odd", "many"));

TEST_P(Nf4GoldenTest, CodesAndScalesAreTheBytesOfBitsandbytes) {
  const std::vector<float> values = Values();
  std::vector<uint8_t> codes(Nf4CodeBytes(values.size()));
  std::vector<float> scales(Nf4Blocks(values.size()));
  QuantizeNf4(values, codes, scales);
  EXPECT_EQ(codes, Part<uint8_t>("codes"));
  EXPECT_EQ(scales, Part<float>("scales"));
}

TEST_P(Nf4GoldenTest, NestedScalesAreTheBytesOfBitsandbytes) {
  const std::vector<float> scales = Part<float>("scales");
  const float mean = Part<float>("mean")[0];
  std::vector<uint8_t> indices(scales.size());
  std::vector<float> nested(Nf4NestedBlocks(scales.size()));
  QuantizeNf4Scales(scales, mean, indices, nested);
  EXPECT_EQ(indices, Part<uint8_t>("scale_indices"));
  EXPECT_EQ(nested, Part<float>("nested"));
  double sum = 0;
  for (const float scale : scales) sum += scale;
  EXPECT_NEAR(sum / static_cast<double>(scales.size()), mean, 1e-6 * mean);
}

TEST_P(Nf4GoldenTest, DequantizedValuesAreThoseOfBitsandbytesFromAnyBlockOn) {
  if (std::string(GetParam()) == "many") return;  // Its bytes are compared above.
  const auto codes = Part<uint8_t>("codes");
  const auto indices = Part<uint8_t>("scale_indices");
  const auto nested = Part<float>("nested");
  const Nf4View view = {codes, indices, nested, Part<float>("mean")[0]};
  const std::vector<float> expected = Part<float>("dequantized");
  for (size_t first = 0; first < expected.size(); first += kNf4Block) {
    std::vector<float> values(expected.size() - first);
    DequantizeNf4(view, first, values);
    ASSERT_EQ(values, std::vector<float>(expected.begin() + static_cast<std::ptrdiff_t>(first),
                                         expected.end()))
        << first;
  }
}

TEST_P(Nf4GoldenTest, TheMapOfScalesIsThatOfBitsandbytes) {
  const auto map = Read<float>("map");
  EXPECT_EQ(std::vector<float>(DynamicMap().begin(), DynamicMap().end()), map);
}

}  // namespace
}  // namespace lathe
