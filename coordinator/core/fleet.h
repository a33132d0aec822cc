#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/id.h"
#include "coordinator/core/place.h"

namespace lathe {

struct WorkerInfo {
  WorkerId id = {};
  std::string name = {};
  std::string slot_kind = "cpu";  // "cpu" or "cuda".
  int slots = 0;
  int threads_per_slot = 1;
  int64_t memory_bytes = 0;
  std::string build = {};
  std::string metrics_address = {};
};

// Ranges and vocabulary of what an agent says of itself.
absl::Status Validate(const WorkerInfo& info);

enum class WorkerState { kAlive, kLost, kLeft };

// One connection of an agent. Messages of an older one are ignored.
using SessionId = int64_t;  // 0: none.

struct Worker {
  WorkerInfo info;
  WorkerState state = WorkerState::kAlive;
  SessionId session = 0;
  absl::Time last_seen;
  bool draining = false;  // It is being stopped and takes nothing new.
  // Slots that are taken there, by assignment. Those of an attempt that is over stay until the
  // worker says that they ended: their processes still use the machine.
  std::map<AssignmentId, int> held;

  int FreeSlots() const;
};

// The workers the coordinator has heard of, with their leases. Lost ones stay for a while: people
// look for them. Pure bookkeeping, thread-compatible; time is passed in.
class Fleet {
 public:
  explicit Fleet(absl::Duration lease) : lease_(lease) {}

  // AlreadyExists: another live worker has the name. InvalidArgument: bad info.
  absl::Status Register(const WorkerInfo& info, SessionId session, absl::Time now);

  // One that a coordinator before this one knew: it may come back until `deadline`, then it is
  // lost.
  void Expect(const WorkerId& id, const std::string& name, absl::Time deadline);

  // Whether the message counts: it comes from the worker's present session.
  bool Renew(const WorkerId& id, SessionId session, absl::Time now);

  // The connection is gone; the lease goes on.
  void Disconnect(const WorkerId& id, SessionId session);

  // It said goodbye.
  void Leave(const WorkerId& id);

  // Marks those whose lease is over as lost and returns them.
  std::vector<WorkerId> ExpireLeases(absl::Time now);

  // Drops lost and left workers that nobody has heard of since `before`.
  void Forget(absl::Time before);

  // When the next lease ends; InfiniteFuture() if none runs.
  absl::Time NextDeadline() const;

  Worker* Find(const WorkerId& id);
  const Worker* Find(const WorkerId& id) const;
  std::string NameOf(const WorkerId& id) const;
  std::vector<WorkerView> Views() const;
  const std::map<WorkerId, Worker>& workers() const { return workers_; }

 private:
  const absl::Duration lease_;
  std::map<WorkerId, Worker> workers_;
};

}  // namespace lathe
