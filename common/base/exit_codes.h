#pragma once

#include <string>

#include "absl/status/status.h"

// How a child process of the agent (trainer, prepare) says why it ended. docs/architecture.md,
// "Fail".

namespace lathe {

inline constexpr int kExitOk = 0;
inline constexpr int kExitUserError =
    64;                              // The user's data, model or spec is wrong: not tried again.
inline constexpr int kExitBug = 70;  // Ours: not tried again.
inline constexpr int kExitDiskFull = 74;  // No space: tried again when a person has made some.
inline constexpr int kExitPeerLost =
    75;  // Another rank is gone; this one is not to blame: tried again.

inline constexpr int kExitBadCheckpoint =
    76;  // The checkpoint to go on from cannot be used: tried again without it.

enum class FailureCause { kNone, kUser, kBug, kPeerLost, kMachine, kCheckpoint, kDisk };

// Of what came of going on from a checkpoint: the same status, marked if the checkpoint cannot be
// used, now or later: its bytes are gone or are not what they must be (DataLoss, NotFound,
// FailedPrecondition). An error that may pass is not marked: work would be thrown away.
absl::Status MarkBadCheckpoint(absl::Status status);
bool IsBadCheckpoint(const absl::Status& status);

// The same status, marked as one of a disk without space: not of the program, nor of its memory.
absl::Status MarkDiskFull(absl::Status status);
bool IsDiskFull(const absl::Status& status);

// Statuses marked as of a bad checkpoint -> 76, of a full disk -> 74. InvalidArgument, NotFound,
// FailedPrecondition, OutOfRange, Unimplemented
// -> 64; Unavailable, Aborted -> 75; else 70.
int ExitCodeFor(const absl::Status& status);

// From waitpid's status. A signal is kMachine (the process was killed), 64 kUser, 70 kBug, 74
// kDisk, 75 kPeerLost, 76 kCheckpoint.
FailureCause CauseOfExit(int wait_status);

// "exited with 70", "killed by signal 9 (Killed; probably out of memory, or by hand)".
std::string DescribeExit(int wait_status);

}  // namespace lathe
