#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "lathe/internal/v1/agent.pb.h"
#include "worker/agent/spawner.h"

// Why an assignment ended, as a pure function of what was seen. docs/architecture.md, "Fail".

namespace lathe::agent {

namespace pb = ::lathe::internal::v1;

// Why the agent itself ended a child.
struct StopReason {
  std::string cause;      // "cancelled", "machine" or "bug".
  std::string message;    // "cancelled", "this worker is being stopped", ...
  bool diagnose = false;  // It stands still: what its threads do is printed first.
};

// What was seen of a child from its start to its end.
struct ChildStory {
  std::string source;  // "train rank 1 on worker-2".
  std::string folder;  // Of the assignment. Left out of messages: it means nothing to a user.
  ExitReport exit;
  int64_t machine_memory_bytes = 0;  // 0: unknown.
  bool oom_killer_ran = false;       // Somewhere on the machine while the child lived.
  std::optional<pb::Done> done;
  std::optional<pb::Failed> failed;
  std::optional<StopReason> stopped;
  // Why the agent lost patience with it and killed it; empty: it did not.
  std::string impatience;
  std::string last_line;  // Of its output; empty: it said nothing.
};

// ok and done are set if the child did its work; outputs are not looked at.
pb::Ended Judge(const ChildStory& story);

// An assignment that failed without a child or after it.
pb::Ended EndedByAgent(const std::string& source, const absl::Status& status);

pb::Ended EndedByStop(const std::string& source, const StopReason& reason);

}  // namespace lathe::agent
