#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "common/blob/blob_store.h"
#include "worker/agent/agent_options.h"
#include "worker/agent/agent_probe.h"
#include "worker/agent/assignment_run.h"
#include "worker/agent/blob_cache.h"
#include "worker/agent/coordinator_channel.h"
#include "worker/agent/log_publisher.h"
#include "worker/agent/outbox.h"
#include "worker/agent/spawner.h"
#include "worker/agent/transfers.h"
#include "worker/agent/worker_root.h"

namespace lathe::agent {

// One host's offer of slots: keeps a session with the coordinator, runs its assignments as child
// processes and reports. Children go on while the coordinator is away, for as long as
// orphan_timeout; a new session starts with what it has missed.
class Agent {
 public:
  // All references outlive the agent. `cache` is the store in root.cache().
  Agent(AgentOptions options, const WorkerRoot& root, std::unique_ptr<BlobStore> cache,
        CoordinatorChannel& channel, AgentProbe& probe);
  ~Agent();

  // Connects and serves until Stop; then OK. A status: the coordinator refused the very first
  // registration (wrong token, no common protocol), so that coming back would not help.
  absl::Status Run();

  // Waits up to drain_timeout until the coordinator has let what runs for jobs end with a
  // checkpoint; ends all children, waits up to flush_timeout until the coordinator knows, leaves it
  // and makes Run return. Blocks; from another thread than Run's.
  void Stop();

 private:
  using Clock = std::chrono::steady_clock;

  absl::Status ServeSession(Session& session);
  void WriteLoop(Session& session, const std::stop_token& stop);
  void WriteUpdates(Session& session, const std::stop_token& stop);
  void WatchLease(Session& session, const std::stop_token& stop);
  pb::AgentMessage MakeRegister();
  void Handle(const pb::CoordinatorMessage& message);
  void HandleRegistered(const pb::Registered& registered);
  void HandleAssignment(const pb::Assignment& assignment);
  void HandleCancel(const pb::CancelAssignment& cancel);
  // Why an assignment is not taken; OK: it is.
  absl::Status AdmitLocked(const pb::Assignment& assignment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Those that an assignment of so many slots gets.
  std::vector<int> GpusLocked(int slots) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int BusySlotsLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  AssignmentRun* FindLocked(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Refuse(const pb::Assignment& assignment, const absl::Status& status);
  void ReapFinished();
  void StopChildren(const StopReason& reason);
  void Drain();
  bool HasJobsLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StopChildrenIfOrphaned();
  // Waits after the `num_failures`th failure in a row, or until Stop.
  void BackOff(int num_failures);
  // False: stopping, do not serve.
  bool Install(Session* session);
  bool stopping();
  bool draining();
  std::stop_source WriterStop();
  void LeaveSession();

  const AgentOptions options_;
  const WorkerRoot& root_;
  CoordinatorChannel& channel_;
  AgentProbe& probe_;

  // Provide their own synchronization.
  SessionGate gate_;
  BlobCache cache_;
  Spawner spawner_;  // Before the assignments: its end would kill their children.
  Outbox outbox_;
  Transfers transfers_;
  LogPublisher logs_;
  const AgentParts parts_;

  Mutex mu_;
  std::condition_variable_any changed_;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;  // Nothing new is taken.
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  Session* session_ ABSL_GUARDED_BY(mu_) = nullptr;    // To be left by Stop.
  std::stop_source writer_stop_ ABSL_GUARDED_BY(mu_);  // Of its writing thread.
  bool leaving_ ABSL_GUARDED_BY(mu_) = false;
  bool registered_ ABSL_GUARDED_BY(mu_) = false;  // In this session.
  bool ever_registered_ ABSL_GUARDED_BY(mu_) = false;
  Clock::time_point session_start_ ABSL_GUARDED_BY(mu_);
  Clock::time_point last_heard_ ABSL_GUARDED_BY(mu_) = Clock::now();
  absl::Duration lease_ ABSL_GUARDED_BY(mu_);
  absl::Duration heartbeat_interval_ ABSL_GUARDED_BY(mu_);
  absl::Duration orphan_timeout_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::unique_ptr<AssignmentRun>> runs_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lathe::agent
