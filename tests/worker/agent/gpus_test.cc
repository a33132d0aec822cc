#include "worker/agent/gpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "common/base/file.h"

namespace lathe::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(PresentGpusTest, OnlyNumberedFilesOfTheDriverAreGpus) {
  const TempFolder dev = *TempFolder::Make("gpus_test");
  for (const char* name : {"nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "null"}) {
    std::ofstream(dev.path() / name).flush();
  }
  EXPECT_THAT(PresentGpus(dev.path()), ElementsAre(2, 10));
  EXPECT_THAT(PresentGpus(dev.path() / "none"), IsEmpty());
}

TEST(ParseGpusTest, TakesAllOrTheNumbersThatAreNamed) {
  EXPECT_THAT(*ParseGpus("all", {0, 1}), ElementsAre(0, 1));
  EXPECT_THAT(*ParseGpus("3,1", {0, 1, 3}), ElementsAre(3, 1));
}

TEST(ParseGpusTest, WhatIsNotThereIsRefusedWithWhatIs) {
  for (const char* flag : {"2", "0,0", "0,", "", "-1", "0;1", "some"}) {
    const absl::Status status = ParseGpus(flag, {0, 1}).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << flag;
    EXPECT_THAT(status.message(), HasSubstr("this machine has 0,1")) << flag;
  }
  EXPECT_THAT(ParseGpus("all", {}).status().message(), HasSubstr("has no NVIDIA GPU"));
}

TEST(TakeGpusTest, AnAssignmentGetsThoseThatNobodyHas) {
  EXPECT_THAT(TakeGpus({0, 1, 3}, {0}, 2), ElementsAre(1, 3));
  EXPECT_THAT(TakeGpus({0, 1, 3}, {0}, 0), IsEmpty());
  EXPECT_THAT(TakeGpus({}, {}, 1), IsEmpty());  // Slots that are cores.
}

}  // namespace
}  // namespace lathe::agent
