#include "common/base/human.h"

#include <gtest/gtest.h>

namespace lathe {
namespace {

TEST(HumanBytesTest, HasOneDigitAndTheLargestUnitThatFits) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(512), "512 B");
  EXPECT_EQ(HumanBytes(1024), "1.0 KiB");
  EXPECT_EQ(HumanBytes(98362432), "93.8 MiB");
  EXPECT_EQ(HumanBytes(int64_t{3} << 50), "3072.0 TiB");
}

}  // namespace
}  // namespace lathe
