#include <sys/wait.h>

#include <csignal>
#include <cstring>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "common/base/exit_codes.h"

namespace lathe {
namespace {

constexpr char kBadCheckpoint[] = "lathe/bad-checkpoint";
constexpr char kDiskFull[] = "lathe/disk-full";

}  // namespace

absl::Status MarkBadCheckpoint(absl::Status status) {
  const bool for_good =
      absl::IsDataLoss(status) || absl::IsNotFound(status) || absl::IsFailedPrecondition(status);
  if (for_good) status.SetPayload(kBadCheckpoint, absl::Cord());
  return status;
}

bool IsBadCheckpoint(const absl::Status& status) {
  return status.GetPayload(kBadCheckpoint).has_value();
}

absl::Status MarkDiskFull(absl::Status status) {
  status.SetPayload(kDiskFull, absl::Cord());
  return status;
}

bool IsDiskFull(const absl::Status& status) { return status.GetPayload(kDiskFull).has_value(); }

int ExitCodeFor(const absl::Status& status) {
  if (IsBadCheckpoint(status)) return kExitBadCheckpoint;
  if (IsDiskFull(status)) return kExitDiskFull;
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return kExitUserError;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
      return kExitPeerLost;
    default:
      return kExitBug;
  }
}

FailureCause CauseOfExit(int wait_status) {
  if (WIFSIGNALED(wait_status)) return FailureCause::kMachine;
  switch (WEXITSTATUS(wait_status)) {
    case kExitOk:
      return FailureCause::kNone;
    case kExitUserError:
      return FailureCause::kUser;
    case kExitDiskFull:
      return FailureCause::kDisk;
    case kExitPeerLost:
      return FailureCause::kPeerLost;
    case kExitBadCheckpoint:
      return FailureCause::kCheckpoint;
    default:
      return FailureCause::kBug;
  }
}

std::string DescribeExit(int wait_status) {
  if (!WIFSIGNALED(wait_status)) return absl::StrCat("exited with ", WEXITSTATUS(wait_status));
  const int signal = WTERMSIG(wait_status);
  return absl::StrCat("killed by signal ", signal, " (", strsignal(signal),
                      signal == SIGKILL ? "; by hand, or the machine ran out of memory)" : ")");
}

}  // namespace lathe
