#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/core/assignment.h"
#include "coordinator/core/fleet.h"
#include "coordinator/core/hang.h"
#include "coordinator/core/place.h"
#include "coordinator/core/records.h"

namespace lathe {

struct CoreOptions {
  // A worker that is silent for longer is lost and its work is given to others.
  absl::Duration lease = absl::Seconds(15);
  // After a restart of the coordinator: how long workers that computed for it have to come back
  // before they count as lost.
  absl::Duration restart_grace = absl::Seconds(15);
  // How long a worker that came back without a process may take to report its end.
  absl::Duration missing_grace = absl::Seconds(5);
  // A process that was told to end and does not within this time no longer holds up its job. Its
  // slots stay taken until its worker says that it ended.
  absl::Duration cancel_timeout = absl::Seconds(60);
  // Of the ranks of a training.
  HangOptions hang;
  // Lost and left workers are listed for so long.
  absl::Duration forget_worker_after = absl::Hours(1);
  // A job keeps away from a worker whose machine failed it so often, if others can hold it.
  int max_machine_faults = 2;
  int max_unfinished_jobs = 1000;
  // Slots that the jobs of a project may hold at a time; one that is not named has no limit.
  std::map<std::string, int> quotas = {};
};

// An order to an agent.
struct Command {
  enum class Kind { kStart, kCancel, kPause, kRendezvous };
  Kind kind = Kind::kStart;
  Assignment assignment;
  RendezvousPoint rendezvous;
  bool keep_checkpoint = false;  // Of kCancel: the job goes on.
  bool diagnose = false;         // Of kCancel: it stands still; where, is to be found out first.
};

// A training that stood still: by rank, where they ran and what they said last.
struct HangReport {
  Job job;
  Hang hang;
  std::vector<WorkerInfo> workers = {};
  std::vector<RankProgress> ranks;
  absl::Time time;
};

struct ErrandEnd {
  std::string errand;
  Ended ended;
};

// What the caller has to do, in this order: store `changes`, keep `hangs` for people, send
// `commands`, tell `errands`.
struct Effects {
  std::vector<JobChange> changes;
  std::vector<Command> commands;
  std::vector<ErrandEnd> errands;
  std::vector<HangReport> hangs;
};

// Every decision of the coordinator: which job runs where, what a message of an agent means, when a
// lease is over, what a failure leads to. Pure: no clock, no lock, no disk, no network; the same
// calls and ids give the same effects. Thread-compatible: one thread owns it.
class Core {
 public:
  // `new_assignment`: makes ids that no other coordinator of the same workers has made or will
  // make.
  explicit Core(CoreOptions options,
                std::function<AssignmentId()> new_assignment = &AssignmentId::New);

  // --- Jobs
  // Takes over the unfinished jobs of an earlier coordinator. What it had placed runs on.
  // REQUIRES: called first, at most once.
  void Restore(std::vector<Job> jobs, std::map<std::string, FileTree> shards, absl::Time now,
               Effects& out);
  // After a data set was deleted: what is still there.
  void SetShards(std::map<std::string, FileTree> shards) { shards_ = std::move(shards); }
  // ResourceExhausted: too many. AlreadyExists: an unfinished job makes a model of that name.
  absl::Status CanAdd(const Job& job) const;
  // REQUIRES: the job was stored, with its first event.
  void AddJob(Job job, absl::Time now, Effects& out);
  // NotFound: no unfinished job of that id.
  absl::Status CancelJob(const JobId& id, absl::Time now, Effects& out);
  // NotFound: no unfinished job of that id. FailedPrecondition: it is being cancelled.
  absl::Status PauseJob(const JobId& id, absl::Time now, Effects& out);
  // NotFound likewise. FailedPrecondition: it is being paused or cancelled. One that is not paused
  // stays as it is.
  absl::Status ResumeJob(const JobId& id, absl::Time now, Effects& out);
  const Job* FindJob(const JobId& id) const;  // Unfinished ones only.
  std::vector<const Job*> UnfinishedJobs() const;

  // --- Agents
  absl::Status Register(const WorkerInfo& info, SessionId session,
                        const std::vector<AssignmentId>& running, absl::Time now, Effects& out);
  bool Heartbeat(const WorkerId& worker, SessionId session, absl::Time now);
  // The worker is being stopped: it gets nothing new, and what it computes for jobs ends at a step
  // boundary and goes on elsewhere. Said again it changes nothing.
  void Drain(const WorkerId& worker, absl::Time now, Effects& out);
  void Disconnect(const WorkerId& worker, SessionId session);
  void Leave(const WorkerId& worker, SessionId session, absl::Time now, Effects& out);
  // The fence: the assignment if it is there, runs on that worker and is of the present attempt;
  // else null, and the message counts for nothing.
  const Assignment* Accept(const WorkerId& worker, const AssignmentId& id, const std::string& owner,
                           int64_t attempt) const;
  // REQUIRES for the next four: `assignment` came from Accept.
  void OnRendezvous(const Assignment& assignment, const RendezvousPoint& point, Effects& out);
  // Its files are stored. False: it is not newer than the job's and counts for nothing.
  bool OnCheckpoint(const Assignment& assignment, int64_t step, FileTree files, absl::Time now,
                    Effects& out);
  void OnProgress(const Assignment& assignment, const std::string& phase, int64_t counter,
                  int64_t collective, absl::Time now);
  void OnEvaluation(const Assignment& assignment, bool before, const Evaluation& evaluation,
                    Effects& out);
  // Also for assignments that Accept refuses: their slots come free.
  void OnEnded(const WorkerId& worker, const AssignmentId& id, const std::string& owner,
               int64_t attempt, Ended ended, absl::Time now, Effects& out);
  // Whether `owner` may still write under `attempt`: uploads and logs.
  bool MayWrite(const std::string& owner, int64_t attempt) const;

  // --- Errands: single processes beside the jobs (import, check, preview, serve), without slots.
  // Unavailable: no worker.
  absl::StatusOr<Assignment> StartErrand(const std::string& errand, const std::string& role,
                                         absl::Time deadline, Effects& out);
  void CancelErrand(const std::string& errand, absl::Time now, Effects& out);

  // --- Time
  void Tick(absl::Time now, Effects& out);
  absl::Time NextDeadline() const;

  const Fleet& fleet() const { return fleet_; }
  const std::map<AssignmentId, Assignment>& assignments() const { return assignments_; }

 private:
  // A job that has not ended.
  struct Run {
    Job job;
    std::map<WorkerId, int> faults;                 // Of machines, by worker.
    std::vector<std::optional<Ended>> outcomes;     // By rank.
    std::vector<RankProgress> progress;             // Of a training, by rank.
    std::map<std::string, absl::Duration> longest;  // As RankProgress has it, by phase.
    // No hang is to be found before. Kept, because it is asked for after every message.
    absl::Time hang_check = absl::InfiniteFuture();
    bool hung = false;  // The gang is ending because it stood still.
    // An earlier coordinator placed the gang, and may have told some of it to end.
    bool adopted = false;
    // Not empty: the gang is ending because a rank was lost from sight while the coordinator was
    // away, which is no failure. Says so.
    std::string interrupted;
  };
  struct Errand {
    AssignmentId assignment;
    absl::Time deadline;
  };

  static Gang GangFor(const Job& job);
  void Enqueue(const JobId& id);
  Quota QuotaOf(const std::string& project) const;
  void CountSlots(const Job& job, int sign);
  Run* FindRun(const std::string& owner);
  // NotFound: no unfinished job of that id.
  absl::StatusOr<Run*> UnfinishedRun(const JobId& id);
  void Move(Run& run, JobState to) const;
  void Record(Run& run, absl::Time now, std::string message, Effects& out) const;
  void SetReason(Run& run, const std::string& reason, Effects& out) const;
  void Finish(Run& run, JobState state, absl::Time now, std::string message, Effects& out);
  void Fail(Run& run, const Ended& blame, absl::Time now, Effects& out);

  void Schedule(absl::Time now, Effects& out);
  bool SkipPrepare(Run& run, absl::Time now, Effects& out) const;
  const Run* SamePreparation(const Run& run) const;
  void Adopt(Run& run, absl::Time now, Effects& out);
  void StartGang(Run& run, const Gang& gang, const Placement& placement, absl::Time now,
                 Effects& out);
  void Cancel(Assignment& assignment, absl::Time now, Effects& out);
  void SendCancel(const Assignment& assignment, Effects& out);
  void CancelGang(Run& run, absl::Time now, Effects& out);
  void PauseGang(const Run& run, Effects& out) const;
  void Pause(Run& run, absl::Time now, Effects& out) const;
  void PauseForSpace(Run& run, const Ended& blame, absl::Time now, Effects& out) const;
  void EndAssignment(const AssignmentId& id, Ended ended, absl::Time now, Effects& out);
  void EndAllOn(const WorkerId& worker, const std::string& why, absl::Time now, Effects& out);
  void Conclude(Run& run, absl::Time now, Effects& out);
  void FinishPrepare(Run& run, const Ended& ended, absl::Time now, Effects& out);
  void FinishTrain(Run& run, const std::vector<Ended>& outcomes, absl::Time now, Effects& out);
  void RetryWithoutCheckpoint(Run& run, const Ended& blame, absl::Time now, Effects& out);
  void Retry(Run& run, const Ended& blame, absl::Time now, Effects& out);
  void BeginNextAttempt(Run& run, absl::string_view why, absl::Time now, Effects& out) const;
  void GrowIfItCan(Run& run, absl::Time now, Effects& out);
  bool CanGrow(const Run& run, absl::Time now) const;
  void MoveElsewhere(Run& run, absl::Time now, Effects& out) const;
  void ExpireAssignments(absl::Time now, Effects& out);
  void EndMissing(const Assignment& assignment, absl::Time now, Effects& out);
  Ended Gone(const Assignment& assignment, absl::string_view why);
  void ExpireErrands(absl::Time now, Effects& out);
  void WatchForHang(Run& run) const;
  std::set<WorkerId> Unreliable(const Run& run) const;
  void EndHangs(absl::Time now, Effects& out);
  void EndHang(Run& run, Hang hang, absl::Time now, Effects& out);
  static std::vector<RankProgress> Watched(const Run& run);
  Assignment& NewAssignment(const std::string& owner, const WorkerId& worker);
  std::string Where(const Assignment& assignment) const;

  const CoreOptions options_;
  const std::function<AssignmentId()> new_assignment_;
  Fleet fleet_;
  std::map<JobId, Run> runs_;
  std::vector<JobId> queue_;               // Of runs_, by priority, then first come first.
  std::map<std::string, int> held_slots_;  // Of the gangs, by project.
  std::map<AssignmentId, Assignment> assignments_;
  std::map<std::string, Errand> errands_;
  std::map<std::string, FileTree> shards_;
};

}  // namespace lathe
