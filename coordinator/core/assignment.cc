#include "coordinator/core/assignment.h"

namespace lathe {

absl::string_view EndCauseName(EndCause cause) {
  switch (cause) {
    case EndCause::kMachine:
      return "machine";
    case EndCause::kDisk:
      return "disk";
    case EndCause::kCheckpoint:
      return "checkpoint";
    case EndCause::kUser:
      return "user";
    case EndCause::kBug:
      return "bug";
    case EndCause::kPeerLost:
      return "peer_lost";
    case EndCause::kCancelled:
      return "cancelled";
    case EndCause::kNone:
      return "";
  }
  return "";
}

EndCause ParseEndCause(absl::string_view name) {
  for (const EndCause cause :
       {EndCause::kMachine, EndCause::kDisk, EndCause::kCheckpoint, EndCause::kUser, EndCause::kBug,
        EndCause::kPeerLost, EndCause::kCancelled}) {
    if (name == EndCauseName(cause)) return cause;
  }
  return EndCause::kBug;
}

const Ended* Blame(const std::vector<Ended>& outcomes) {
  const Ended* worst = nullptr;
  for (const Ended& ended : outcomes) {
    if (!ended.ok && (worst == nullptr || ended.cause < worst->cause)) worst = &ended;
  }
  return worst;
}

}  // namespace lathe
