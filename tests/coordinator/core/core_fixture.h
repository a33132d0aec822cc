#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/core/core.h"

namespace lathe {

// Drives a Core by hand: keeps the newest state of every job, all events and all orders, and fails
// the test when a promise about them is broken.
class CoreDriver {
 public:
  explicit CoreDriver(CoreOptions options = {}) : core(options) {}

  void Apply(Effects effects) {
    for (JobChange& change : effects.changes) {
      const std::string& id = change.job.id.value();
      if (jobs.contains(id)) {
        EXPECT_FALSE(IsFinal(jobs[id].state)) << id << " changed after its end";
        EXPECT_GE(change.job.attempt, jobs[id].attempt);
      }
      for (const JobEvent& event : change.events) {
        events[id].push_back(event);
        EXPECT_EQ(event.sequence, static_cast<int64_t>(events[id].size()) + 1) << id;
      }
      if (change.shards.has_value()) shards[change.job.shard_key] = *change.shards;
      if (change.model.has_value()) models.push_back(*change.model);
      dropped.insert(dropped.end(), change.dropped.begin(), change.dropped.end());
      jobs[id] = change.job;
    }
    for (const Command& command : effects.commands) commands.push_back(command);
    for (const ErrandEnd& end : effects.errands) errands.push_back(end);
    for (HangReport& report : effects.hangs) hangs.push_back(std::move(report));
  }

  // Takes over what an earlier coordinator has stored. Its workers are not back yet.
  void Restore(const CoreDriver& before) {
    now = before.now;
    last_session = before.last_session;
    jobs = before.jobs;
    events = before.events;
    shards = before.shards;
    std::vector<Job> unfinished;
    for (const auto& [id, job] : jobs) {
      if (!IsFinal(job.state)) unfinished.push_back(job);
    }
    Effects out;
    core.Restore(std::move(unfinished), shards, now, out);
    Apply(std::move(out));
  }

  // `spec.name` is made from the id.
  Job AddJob(const std::string& id, int ranks = 2, int max_restarts = 5,
             const std::string& shard_key = "", int priority = 0) {
    Job job;
    job.id = JobId(id);
    job.spec.name = "model-" + id;
    job.spec.ranks = ranks;
    job.spec.max_restarts = max_restarts;
    job.spec.priority = priority;
    job.shard_key = shard_key.empty() ? "key-" + id : shard_key;
    job.last_sequence = 1;
    jobs[id] = job;
    Effects out;
    core.AddJob(job, now, out);
    Apply(std::move(out));
    return job;
  }

  void AddWorker(const std::string& name, int slots, std::vector<AssignmentId> running = {},
                 SessionId session = 0) {
    WorkerInfo info;
    info.id = WorkerId("wrk-" + name);
    info.name = name;
    info.slots = slots;
    Effects out;
    const SessionId used = session == 0 ? ++last_session : session;
    sessions[info.id.value()] = used;
    const absl::Status status = core.Register(info, used, running, now, out);
    EXPECT_TRUE(status.ok()) << status;
    Apply(std::move(out));
  }

  void Beat(const std::string& name) {
    core.Heartbeat(WorkerId("wrk-" + name), sessions["wrk-" + name], now);
  }

  void Tick(absl::Duration passed) {
    now += passed;
    Effects out;
    core.Tick(now, out);
    Apply(std::move(out));
  }

  void End(const Assignment& assignment, Ended ended) {
    Effects out;
    core.OnEnded(assignment.worker, assignment.id, assignment.owner, assignment.attempt,
                 std::move(ended), now, out);
    Apply(std::move(out));
  }

  // Rank 0 says where the others find it.
  void Meet(const Assignment& rank0) {
    Effects out;
    core.OnRendezvous(rank0, {"127.0.0.1", 7}, out);
    Apply(std::move(out));
  }

  void Cancel(const std::string& id) {
    Effects out;
    const absl::Status status = core.CancelJob(JobId(id), now, out);
    EXPECT_TRUE(status.ok()) << status;
    Apply(std::move(out));
  }

  void Pause(const std::string& id) {
    Effects out;
    const absl::Status status = core.PauseJob(JobId(id), now, out);
    EXPECT_TRUE(status.ok()) << status;
    Apply(std::move(out));
  }

  void Resume(const std::string& id) {
    Effects out;
    const absl::Status status = core.ResumeJob(JobId(id), now, out);
    EXPECT_TRUE(status.ok()) << status;
    Apply(std::move(out));
  }

  // What runs of a job now, by rank.
  std::vector<Assignment> Running(const std::string& owner) const {
    std::map<int, Assignment> by_rank;
    for (const auto& [id, assignment] : core.assignments())
      if (assignment.owner == owner) by_rank[assignment.rank] = assignment;
    std::vector<Assignment> running;
    for (const auto& [rank, assignment] : by_rank) running.push_back(assignment);
    return running;
  }

  std::vector<Assignment> Sent(Command::Kind kind) const {
    std::vector<Assignment> sent;
    for (const Command& command : commands)
      if (command.kind == kind) sent.push_back(command.assignment);
    return sent;
  }

  // Ends the prepare stage well.
  void FinishPrepare(const std::string& id) {
    ASSERT_EQ(jobs[id].stage, kStagePrepare);
    End(Running(id).at(0), {.ok = true, .outputs = {{"train.shard", {"aa", 1}}}});
  }

  void FinishTrain(const std::string& id) {
    for (const Assignment& assignment : Running(id)) End(assignment, Adapter());
  }

  static Ended Adapter(const std::string& sha256 = "same") {
    return {.ok = true,
            .outputs = {{"adapter_model.safetensors", {"bb", 2}}},
            .adapter_sha256 = sha256,
            .trained_parameters = 12,
            .parity = Parity{.greedy_agreement = 1, .positions = 16}};
  }

  static Ended Failure(EndCause cause, const std::string& message = "why") {
    return {.cause = cause, .code = 13, .message = message};
  }

  Core core;
  absl::Time now = absl::FromUnixSeconds(1000);
  SessionId last_session = 0;
  std::map<std::string, SessionId> sessions;
  std::map<std::string, Job> jobs;
  std::map<std::string, std::vector<JobEvent>> events;
  std::map<std::string, FileTree> shards;
  std::vector<Model> models;
  FileTree dropped;  // Files that nobody needs any more.
  std::vector<Command> commands;
  std::vector<ErrandEnd> errands;
  std::vector<HangReport> hangs;
};

}  // namespace lathe
