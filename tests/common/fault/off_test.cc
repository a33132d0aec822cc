#include <cstdlib>

#include "common/fault/fault.h"
#include "gtest/gtest.h"

namespace lathe::fault {
namespace {

// What people run is linked as this test is.
TEST(FaultOffTest, TheEnvironmentIsNotObeyed) {
  setenv("LATHE_FAULT", "p:kill", 1);
  setenv("LATHE_FAULT_DIR", "/tmp", 1);
  EXPECT_TRUE(Hit("p").ok());
  EXPECT_TRUE(Environment().empty());
}

}  // namespace
}  // namespace lathe::fault
