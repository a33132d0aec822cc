#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "coordinator/core/assignment.h"
#include "tests/coordinator/core/simulation/timeline.h"

namespace lathe::simulation {

// A process as its gang sees it.
class Member {
 public:
  virtual ~Member() = default;
  virtual void OnCheckpoint(int64_t step) = 0;  // Of rank 0: it has written one.
  virtual void OnEnd(Ended ended) = 0;
};

// The ranks of trainings among themselves: they step together, end together at a step when one is
// asked to pause, and miss one that dies. Nothing of it goes through the coordinator.
class Gangs {
 public:
  explicit Gangs(Timeline& time) : time_(time) {}

  // The rank knows where to meet. `resume_step`: after which it goes on; `usable`: whether it can.
  void Join(const Assignment& assignment, int64_t resume_step, bool usable,
            std::weak_ptr<Member> member);
  void Pause(const Assignment& assignment);
  // The process has ended, or is killed.
  void Leave(const Assignment& assignment);
  static Ended Failure(EndCause cause, absl::string_view why);

 private:
  struct Gang {
    std::map<int, std::weak_ptr<Member>> ranks;
    int world_size = 1;
    int64_t step = 0;
    int64_t resumed = 0;
    int64_t num_steps = 0;
    bool usable = true;
    bool pause = false;
    bool over = false;
  };
  using Key = std::pair<std::string, int64_t>;  // Job and attempt.

  void Step(const Key& key);
  void End(Gang& gang, const std::function<Ended(int)>& how);
  Ended Done(const Gang& gang, int rank) const;

  Timeline& time_;
  std::map<Key, Gang> gangs_;
};

}  // namespace lathe::simulation
