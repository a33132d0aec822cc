#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/id.h"
#include "coordinator/core/records.h"

// One child process of one worker, and what it says.

namespace lathe {

inline constexpr char kRoleImport[] = "import";
inline constexpr char kRoleCheck[] = "check";
inline constexpr char kRolePreview[] = "preview";
inline constexpr char kRoleServe[] = "serve";

struct Assignment {
  AssignmentId id;
  std::string owner = {};  // Job id, or errand id ("task-...").
  int64_t attempt = 1;
  WorkerId worker;
  std::string role = {};  // A stage, or one of kRole...
  int rank = 0;
  int world_size = 1;
  int slots = 0;
  // When it was told to end; InfiniteFuture(): it was not.
  absl::Time cancel_time = absl::InfiniteFuture();
  // Since when its worker is back without it; InfiniteFuture(): it is not missing.
  absl::Time missing_since = absl::InfiniteFuture();
  // An earlier coordinator started it, and its worker has not said yet that it runs.
  bool unconfirmed = false;
};

// In the order of blame: of several failures in a gang the first of these explains the others. A
// survivor of a killed process may report anything, so a machine's failure comes first.
enum class EndCause { kMachine, kDisk, kCheckpoint, kUser, kBug, kPeerLost, kCancelled, kNone };

absl::string_view EndCauseName(EndCause cause);  // "machine", ..., "".
EndCause ParseEndCause(absl::string_view name);  // Unknown names are kBug.

struct Ended {
  bool ok = false;
  EndCause cause = EndCause::kNone;
  int code = 0;  // google.rpc.Code.
  std::string message = {};
  FileTree outputs = {};
  std::string adapter_sha256 = {};    // Of a rank.
  int64_t trained_parameters = 0;     // Of a rank.
  std::optional<Parity> parity = {};  // Of rank 0.
  int64_t resumed_step = 0;           // Of rank 0.
  bool resume_verified = false;       // Of rank 0.
  std::string ledger = {};            // Of rank 0: 16 hexadecimal digits.
  std::string payload = {};           // The whole report, opaque here.
};

// The failure that explains the others; null if all are ok.
const Ended* Blame(const std::vector<Ended>& outcomes);

}  // namespace lathe
