#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <stop_token>
#include <string>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "lathe/internal/v1/agent.pb.h"
#include "worker/agent/agent_probe.h"

namespace lathe::agent {

namespace pb = ::lathe::internal::v1;

// The updates on their way to the coordinator. An update stays here until the coordinator has
// answered a heartbeat that was written after it, and a new session starts with all that stay: each
// arrives at least once, in order per session.
//
// Bounded to kMaxUpdates. When full, the oldest step, phase or progress goes; started, rendezvous,
// evaluation and ended are never dropped. A newer phase or progress replaces one that waits.
// Thread-safe.
class Outbox {
 public:
  static constexpr size_t kMaxUpdates =
      16384;  // Of a tiny model that is minutes without a coordinator.

  explicit Outbox(AgentProbe& probe) : probe_(probe) {}

  void Push(pb::AssignmentUpdate update);

  // The next WaitForWork() returns at once.
  void Wake();
  // Waits until there is something to send or Wake(), for `timeout` at most or a stop.
  bool WaitForWork(absl::Duration timeout, const std::stop_token& stop);
  // The next update of this session.
  std::optional<pb::AssignmentUpdate> Next();
  // Number of the heartbeat that is written now.
  int64_t NextHeartbeat();
  void OnHeartbeatAnswer(int64_t sequence);
  // A new session begins: everything that stays is sent again.
  void Rewind();

  // Assignments whose `ended` the coordinator may not have.
  std::set<std::string> EndedAssignments() const;
  // Waits until the coordinator has every `ended`. False: not within `timeout`.
  bool WaitUntilEndedAreKnown(absl::Duration timeout);
  size_t size() const;

 private:
  struct Entry {
    pb::AssignmentUpdate update;
    int64_t heartbeat = 0;  // The first one after it; 0: none yet.
  };
  bool ReplaceWaitingLocked(const pb::AssignmentUpdate& update) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void MakeRoomLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  AgentProbe& probe_;
  mutable Mutex mu_;
  std::condition_variable_any changed_;
  std::deque<Entry> entries_ ABSL_GUARDED_BY(mu_);
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  size_t num_sent_ ABSL_GUARDED_BY(mu_) = 0;  // The first ones, in this session.
  int64_t last_heartbeat_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace lathe::agent
