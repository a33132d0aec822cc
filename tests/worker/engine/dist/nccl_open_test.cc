// liblathe_nccl.so on a machine without a driver: it opens, and says that there are no devices.

#include <ATen/ATen.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/subprocess.h"
#include "worker/engine/dist/nccl_plugin.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;
using testing::Program;

TEST(NcclOpenTest, OpensWithoutADriverAndFindsNoDevice) {
  const auto plugin = OpenNcclPlugin(Program("liblathe_nccl.so"));
  ASSERT_TRUE(plugin.ok()) << plugin.status();
  EXPECT_EQ((*plugin)->NcclVersion(), "2.28.9");
  const CudaDevices devices = (*plugin)->Devices();
  if (devices.count > 0) GTEST_SKIP() << "this machine has " << devices.count << " CUDA devices";
  EXPECT_THAT(devices.reason, HasSubstr("CUDA"));
  const auto group = (*plugin)->Join(MakeSoloCommunicator(), {});
  EXPECT_EQ(group.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(group.status().message()),
              HasSubstr("device is 0; this machine has 0 CUDA devices: "));
}

// The kernels for the GPU came with the library; those for the CPU are still the ones in use.
TEST(NcclOpenTest, LeavesTheEngineOnTheCpuAsItIs) {
  const auto plugin = OpenNcclPlugin(Program("liblathe_nccl.so"));
  ASSERT_TRUE(plugin.ok()) << plugin.status();
  const at::Tensor two = at::ones({2, 2}, at::kFloat).mm(at::ones({2, 2}, at::kFloat));
  EXPECT_EQ(two.sum().item<double>(), 8.0);
}

// libtorch asks once what its CUDA part is. Had it done so before, no GPU would be found.
TEST(NcclOpenTest, LibtorchKnowsOfItsCudaPartOnceTheLibraryIsOpen) {
  ASSERT_TRUE(OpenNcclPlugin(Program("liblathe_nccl.so")).ok());
  EXPECT_TRUE(at::detail::getCUDAHooks().compiledWithCuDNN());
}

// Ampere, Hopper, Blackwell. Needs no GPU.
TEST(NcclOpenTest, KernelsCompileForTheGpusThatHaveBf16) {
  const auto plugin = OpenNcclPlugin(Program("liblathe_nccl.so"));
  ASSERT_TRUE(plugin.ok()) << plugin.status();
  for (const auto& [major, minor] : {std::pair(8, 0), std::pair(9, 0), std::pair(10, 0)}) {
    const auto code = (*plugin)->KernelCode(major, minor);
    ASSERT_TRUE(code.ok()) << code.status();
    EXPECT_EQ(code->substr(1, 3), "ELF");
  }
}

TEST(NcclOpenTest, TrainerTellsTheDevices) {
  testing::Subprocess devices({Program("lathe-trainer"), "devices"});
  EXPECT_EQ(devices.Wait(), 0) << devices.output();
  EXPECT_THAT(devices.output(), HasSubstr("NCCL 2.28.9"));
  EXPECT_THAT(devices.output(), HasSubstr(" CUDA devices"));
}

}  // namespace
}  // namespace lathe
