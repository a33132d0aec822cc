#include "worker/formats/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace lathe {
namespace {

TEST(DtypeTest, NamesAreReadBack) {
  for (const Dtype dtype : {Dtype::kF64, Dtype::kF32, Dtype::kF16, Dtype::kBf16, Dtype::kI64,
                            Dtype::kI32, Dtype::kU8}) {
    EXPECT_EQ(ParseDtype(DtypeName(dtype)), dtype);
  }
  EXPECT_EQ(ParseDtype("F8_E4M3"), std::nullopt);
  EXPECT_EQ(DtypeSize(Dtype::kBf16), 2U);
}

TEST(HalfToFloatTest, IsExactForNormalSubnormalAndSpecialValues) {
  EXPECT_EQ(HalfToFloat(0x3c00), 1.0F);
  EXPECT_EQ(HalfToFloat(0xc000), -2.0F);
  EXPECT_EQ(HalfToFloat(0x7bff), 65504.0F);
  EXPECT_EQ(HalfToFloat(0x0001), std::ldexp(1.0F, -24));
  EXPECT_EQ(HalfToFloat(0x83ff), -1023 * std::ldexp(1.0F, -24));
  EXPECT_EQ(HalfToFloat(0x0400), std::ldexp(1.0F, -14));
  EXPECT_TRUE(std::signbit(HalfToFloat(0x8000)));
  EXPECT_EQ(HalfToFloat(0x8000), 0.0F);
  EXPECT_EQ(HalfToFloat(0x7c00), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(HalfToFloat(0x7e00)));
}

TEST(FloatToHalfTest, EveryHalfComesBackAndTiesGoToEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = HalfToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(FloatToHalf(value), bits);
  }
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const float middle =
        (HalfToFloat(bits) + HalfToFloat(static_cast<uint16_t>(bits + 1))) / 2;  // Exact.
    const auto even = static_cast<uint16_t>(bits + (bits & 1U));
    ASSERT_EQ(FloatToHalf(middle), even);
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 1e9F)), bits + 1);
    ASSERT_EQ(FloatToHalf(-std::nextafter(middle, 0.0F)), bits | 0x8000);
  }
  EXPECT_EQ(FloatToHalf(65519.99F), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0F), 0x7c00);
  EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(NAN))));
}

TEST(FloatToBf16Test, RoundsToTheNearestAndTiesToEven) {
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808000U)), 0x3f80);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f818000U)), 0x3f82);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0xbf808001U)), 0xbf81);
  EXPECT_EQ(FloatToBf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(NAN))));
}

TEST(Bf16ToFloatTest, IsTheUpperHalfOfAFloat) {
  EXPECT_EQ(Bf16ToFloat(0x3f80), 1.0F);
  EXPECT_EQ(std::bit_cast<uint32_t>(Bf16ToFloat(0xc123)), 0xc1230000U);
}

}  // namespace
}  // namespace lathe
