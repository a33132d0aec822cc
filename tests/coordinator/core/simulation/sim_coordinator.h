#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/core/core.h"
#include "tests/coordinator/core/simulation/options.h"
#include "tests/coordinator/core/simulation/rows.h"
#include "tests/coordinator/core/simulation/timeline.h"
#include "tests/coordinator/core/simulation/verdict.h"
#include "tests/coordinator/core/simulation/wire.h"

namespace lathe::simulation {

// Where a link ends on the other side.
class Agent {
 public:
  virtual ~Agent() = default;
  virtual void OnMessage(const LinkPtr& link, const ToWorker& message) = 0;
  virtual void OnLinkGone(const LinkPtr& link) = 0;
};

// The coordinator's process around a Core, as coordinator/service does it: stores what was decided,
// then tells of it. Dies at any of these points and starts again from the rows.
class SimCoordinator {
 public:
  SimCoordinator(Timeline& time, Rows& rows, Verdict& verdict, SimStats& stats,
                 SimOptions& options);

  void Start();
  void Crash();
  bool up() const { return core_ != nullptr; }
  const Core* core() const { return core_.get(); }

  // --- Agents. Null: nobody listens.
  LinkPtr Dial(int worker, Agent* agent);
  void Send(const LinkPtr& link, ToCoordinator message);
  // The network fails: what is under way from some message on is lost, and both ends see it later.
  void Break(const LinkPtr& link);

  // --- Users. False: there was no answer, and whether it was done is unknown.
  bool Submit(Job job);
  enum class Wish { kPause, kResume, kCancel };
  void Ask(const JobId& id, Wish wish);
  void StartErrand(const std::string& id);

  // --- Time
  absl::Time NextDeadline() const;
  void OnDeadline();

  // Looks at everything that is promised of the core and its rows.
  void Check() const;
  std::string Describe(const JobId& id) const;

 private:
  void Deliver(const LinkPtr& link, int64_t index, const ToCoordinator& message);
  void Down(const LinkPtr& link, ToWorker message);
  void Register(const LinkPtr& link, const ToCoordinator& message);
  void OnHeartbeat(const LinkPtr& link, const ToCoordinator& message);
  void OnUpdate(const LinkPtr& link, const ToCoordinator& message);
  // False: the process has ended meanwhile.
  bool Apply(const Effects& effects);
  void Send(const Command& command);
  void CheckStarts(const Effects& effects);
  void CheckRow(const JobId& id) const;
  void CheckAssignments() const;
  absl::Duration Latency();

  Timeline& time_;
  Rows& rows_;
  Verdict& verdict_;
  SimStats& stats_;
  SimOptions& options_;
  std::unique_ptr<Core> core_;  // Null: not running.
  int incarnation_ = 0;
  int64_t last_assignment_ = 0;
  SessionId last_session_ = 0;
  std::map<int, Agent*> agents_;
  std::map<WorkerId, LinkPtr> links_;  // Registered ones of this incarnation.
  std::vector<LinkPtr> open_;          // All of this incarnation.
  std::map<std::string, int> starts_;  // "job attempt role": ranks that were told to start.
};

}  // namespace lathe::simulation
