#include "worker/trainer/torch_guard.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

namespace lathe {
namespace {

TEST(CatchTorchTest, PassesStatusesThrough) {
  EXPECT_TRUE(CatchTorch([] { return absl::OkStatus(); }).ok());
  EXPECT_EQ(CatchTorch([] { return absl::NotFoundError("x"); }), absl::NotFoundError("x"));
}

TEST(CatchTorchTest, MakesOneLineOfWhatLibtorchThrows) {
  const absl::Status status = CatchTorch([] {
    (void)at::mm(at::ones({2, 3}), at::ones({2, 3}));
    return absl::OkStatus();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("mat1 and mat2"));
  EXPECT_THAT(std::string(status.message()), ::testing::Not(::testing::HasSubstr("\n")));
}

TEST(CatchTorchTest, RefusedValuesAreTheUsers) {
  const absl::Status status = CatchTorch([] {
    TORCH_CHECK_VALUE(false, "token id is ", 7);
    return absl::OkStatus();
  });
  EXPECT_EQ(status, absl::InvalidArgumentError("token id is 7"));
}

TEST(CatchTorchTest, MemoryThatIsNotThereIsResourceExhausted) {
  const absl::Status status = CatchTorch([] {
    (void)at::empty({int64_t{1} << 50}, at::kDouble);
    return absl::OkStatus();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

TEST(CatchTorchTest, OtherExceptionsAreBugs) {
  EXPECT_EQ(CatchTorch([]() -> absl::Status { throw std::runtime_error("odd"); }),
            absl::InternalError("odd"));
}

}  // namespace
}  // namespace lathe
