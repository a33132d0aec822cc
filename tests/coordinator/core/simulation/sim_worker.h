#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "tests/coordinator/core/simulation/gangs.h"
#include "tests/coordinator/core/simulation/sim_coordinator.h"

namespace lathe::simulation {

// A worker's agent with its processes, as worker/agent is: dials again and again, keeps what it has
// to say until a heartbeat after it was answered, and says it again in a new session.
class SimWorker final : public Agent {
 public:
  // `drift`: its clock's second in seconds.
  SimWorker(int index, int slots, double drift, Timeline& time, SimCoordinator& coordinator,
            Gangs& gangs, Verdict& verdict, SimStats& stats, const SimOptions& options);

  void Dial();
  void OnMessage(const LinkPtr& link, const ToWorker& message) override;
  void OnLinkGone(const LinkPtr& link) override;

  // --- Faults
  void BreakLink();
  void Die();      // With all its processes; starts again later.
  void KillOne();  // Of its processes.
  void Drain();    // SIGTERM; starts again later.

  bool idle() const { return processes_.empty() && outbox_.empty(); }
  int slots() const { return info_.slots; }

 private:
  struct Process;
  struct Kept {
    ToCoordinator message;
    int64_t heartbeat = 0;  // The first one after it; 0: none yet.
    bool sent = false;
  };

  void OnCommand(const ToWorker& message);
  void StartProcess(const ToWorker& message);
  void Plan(const std::shared_ptr<Process>& process);
  void CancelProcess(const Assignment& assignment);
  void EndProcess(const AssignmentId& id, Ended ended);
  void Say(ToCoordinator message);
  void BeginSession();
  void Beat(int64_t life, const LinkPtr& link);
  void Leave(int64_t life);
  void StartAgain(absl::Duration later);
  bool EndIsKept(const AssignmentId& id) const;

  const WorkerInfo info_;
  const int index_;
  const double drift_;
  Timeline& time_;
  SimCoordinator& coordinator_;
  Gangs& gangs_;
  Verdict& verdict_;
  SimStats& stats_;
  const SimOptions& options_;
  int64_t life_ = 1;  // Grows when the agent starts anew: what an earlier one planned is void.
  bool running_ = true;
  bool draining_ = false;
  LinkPtr link_;  // Null: not connected.
  bool registered_ = false;
  int64_t last_heartbeat_ = 0;
  std::deque<Kept> outbox_;
  std::map<AssignmentId, std::shared_ptr<Process>> processes_;  // Shared with plans for later.
};

}  // namespace lathe::simulation
