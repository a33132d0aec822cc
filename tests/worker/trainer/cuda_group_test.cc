#include "worker/trainer/cuda_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lathe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const std::vector<std::string> kMachines = {"a", "a", "b", "a", "b"};

TEST(DeviceOfRankTest, RanksOfAMachineTakeItsDevicesInTheirOrder) {
  std::vector<int> devices;
  for (int rank = 0; rank < 5; ++rank) devices.push_back(*DeviceOfRank(kMachines, rank, 3));
  EXPECT_THAT(devices, ::testing::ElementsAre(0, 1, 0, 2, 1));
}

TEST(DeviceOfRankTest, MoreRanksThanDevicesAreRefusedWithBothNumbers) {
  EXPECT_TRUE(DeviceOfRank(kMachines, 4, 2).ok());
  const absl::Status status = DeviceOfRank(kMachines, 3, 2).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "ranks is 5; 3 of them are on one machine, which has 2 CUDA devices; must be at most "
            "one rank per device");
}

TEST(CheckDeviceTest, AJobForTheCpuNeedsNothing) {
  EXPECT_TRUE(CheckDevice(JobSpec(), "/nowhere/liblathe_nccl.so").ok());
}

TEST(CheckDeviceTest, AJobForAGpuNeedsTheLibrary) {
  JobSpec spec;
  spec.device = "cuda";
  const absl::Status status = CheckDevice(spec, "/nowhere/liblathe_nccl.so");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("device is 'cuda'"), HasSubstr("no GPU part"),
                    HasSubstr("must be cpu here")));
}

}  // namespace
}  // namespace lathe
