#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/core/core.h"

// What coordinator and workers say to each other in a simulation, as in agent.proto.

namespace lathe::simulation {

// One stream. In order; a break loses what is under way from some message on.
struct Link {
  int worker = 0;
  int incarnation = 0;    // Of the coordinator that it goes to.
  SessionId session = 0;  // Given by the coordinator; 0: not registered.
  bool broken = false;    // As the agent sees it: it hears nothing more.
  int64_t sent = 0;       // Messages of the agent.
  int64_t lost_from = INT64_MAX;
  absl::Time last_up = absl::InfinitePast();
  absl::Time last_down = absl::InfinitePast();
};
using LinkPtr = std::shared_ptr<Link>;

struct ToCoordinator {
  enum class Kind {
    kRegister,
    kHeartbeat,
    kRendezvous,
    kCheckpoint,
    kEvaluation,
    kEnded,
    kGoodbye
  };
  Kind kind = Kind::kHeartbeat;
  int64_t sequence = 0;                    // Of a heartbeat, or of what the outbox keeps.
  bool draining = false;                   // Of a heartbeat.
  std::vector<AssignmentId> running = {};  // Of a registration.
  WorkerInfo info = {};                    // Likewise.
  AssignmentId assignment = {};            // Of an update, with owner and attempt.
  std::string owner = {};
  int64_t attempt = 0;
  SavedCheckpoint checkpoint = {};
  Ended ended = {};
};

struct ToWorker {
  enum class Kind { kRegistered, kAnswer, kCommand, kClose };
  Kind kind = Kind::kAnswer;
  int64_t sequence = 0;  // Of the heartbeat that is answered.
  Command command = {};
  SavedCheckpoint resume = {};  // Of a start.
};

}  // namespace lathe::simulation
