#include "common/base/exit_codes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "common/base/file.h"
#include "common/base/status.h"

namespace lathe {
namespace {

constexpr int Exited(int code) { return code << 8; }
constexpr int Signalled(int signal) { return signal; }

TEST(ExitCodesTest, CausesAreToldApart) {
  EXPECT_EQ(CauseOfExit(Exited(0)), FailureCause::kNone);
  EXPECT_EQ(CauseOfExit(Exited(64)), FailureCause::kUser);
  EXPECT_EQ(CauseOfExit(Exited(70)), FailureCause::kBug);
  EXPECT_EQ(CauseOfExit(Exited(75)), FailureCause::kPeerLost);
  EXPECT_EQ(CauseOfExit(Exited(74)), FailureCause::kDisk);
  EXPECT_EQ(CauseOfExit(Exited(76)), FailureCause::kCheckpoint);
  EXPECT_EQ(CauseOfExit(Exited(1)), FailureCause::kBug);
  EXPECT_EQ(CauseOfExit(Signalled(9)), FailureCause::kMachine);
}

TEST(ExitCodesTest, StatusesMapToTheCodeThatNamesWhoIsToBlame) {
  EXPECT_EQ(ExitCodeFor(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeFor(absl::InvalidArgumentError("")), kExitUserError);
  EXPECT_EQ(ExitCodeFor(absl::UnavailableError("")), kExitPeerLost);
  EXPECT_EQ(ExitCodeFor(absl::InternalError("")), kExitBug);
}

TEST(ExitCodesTest, ABadCheckpointHasACodeOfItsOwnWhateverItsStatus) {
  const absl::Status damaged = MarkBadCheckpoint(absl::DataLossError("cut"));
  EXPECT_TRUE(IsBadCheckpoint(damaged));
  EXPECT_EQ(damaged.message(), "cut");
  EXPECT_EQ(ExitCodeFor(damaged), kExitBadCheckpoint);
  EXPECT_FALSE(IsBadCheckpoint(absl::DataLossError("cut")));
  EXPECT_FALSE(
      IsBadCheckpoint(MarkBadCheckpoint(absl::UnavailableError("the disk answers later"))));
  EXPECT_TRUE(MarkBadCheckpoint(absl::OkStatus()).ok());
}

TEST(ExitCodesTest, AFullDiskIsToldFromMemoryThatIsFullAlsoUnderContext) {
  const absl::Status full = Annotate(ErrnoToStatus(ENOSPC, "file"), "checkpoint");
  EXPECT_TRUE(IsDiskFull(full)) << full;
  EXPECT_EQ(ExitCodeFor(full), kExitDiskFull);
  EXPECT_FALSE(IsDiskFull(absl::ResourceExhaustedError("out of memory")));
  EXPECT_FALSE(IsDiskFull(ErrnoToStatus(EIO, "file")));
}

TEST(ExitCodesTest, DescriptionNamesTheSignal) {
  EXPECT_THAT(DescribeExit(Signalled(9)), testing::HasSubstr("signal 9 (Killed"));
  EXPECT_EQ(DescribeExit(Exited(70)), "exited with 70");
}

}  // namespace
}  // namespace lathe
