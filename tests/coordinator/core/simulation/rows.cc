#include "tests/coordinator/core/simulation/rows.h"

#include "absl/strings/str_cat.h"
#include "coordinator/core/job_state.h"
#include "coordinator/store/documents.h"

namespace lathe::simulation {

namespace {

// In one transaction a job with nothing to wait for also passes through PAUSING or CANCELLING.
bool CanFollow(JobState from, JobState to) {
  const auto through = [&](JobState by) { return CanMove(from, by) && CanMove(by, to); };
  return from == to || CanMove(from, to) || through(JobState::kPausing) ||
         through(JobState::kCancelling);
}

}  // namespace

void Rows::Create(const Job& job, const JobEvent& first) {
  if (!requests_.emplace(job.request_id, job.id).second || jobs_.contains(job.id)) {
    verdict_.Break(absl::StrCat(job.request_id, ": a second job for one request"));
  }
  if (first.sequence != 1) verdict_.Break(absl::StrCat(job.id.value(), ": begins with a gap"));
  jobs_[job.id] = job;
  unfinished_.insert(job.id);
}

void Rows::Commit(const std::vector<JobChange>& changes) {
  for (const JobChange& change : changes) {
    const auto found = jobs_.find(change.job.id);
    if (found == jobs_.end()) {
      return verdict_.Break(absl::StrCat(change.job.id.value(), ": changed and was never stored"));
    }
    CheckMove(found->second, change.job);
    CheckEvents(found->second, change);
    Put(change);
  }
}

void Rows::CheckMove(const Job& before, const Job& after) {
  const auto broken = [&](absl::string_view why) {
    verdict_.Break(absl::StrCat(after.id.value(), " from ", JobStateName(before.state), " attempt ",
                                before.attempt, " to ", JobStateName(after.state), " attempt ",
                                after.attempt, ": ", why));
  };
  if (IsFinal(before.state)) broken("changed after its end");
  if (after.attempt < before.attempt) broken("an older attempt wrote");
  if (!CanFollow(before.state, after.state)) broken("no such move");
  if (after.failures > after.spec.max_restarts + 1) broken("tried more often than allowed");
  if (after.checkpoint.step > 0 && after.fallback.step >= after.checkpoint.step) {
    broken("the checkpoint before is not older");
  }
  // A later attempt may have given up one that cannot be used.
  if (after.attempt == before.attempt && after.checkpoint.step < before.checkpoint.step &&
      !IsFinal(after.state)) {
    broken(absl::StrCat("steps fell from ", before.checkpoint.step, " to ", after.checkpoint.step));
  }
}

void Rows::CheckEvents(const Job& before, const JobChange& change) {
  int64_t last = before.last_sequence;
  for (const JobEvent& event : change.events) {
    if (event.sequence != ++last) {
      verdict_.Break(
          absl::StrCat(change.job.id.value(), ": event ", event.sequence, " follows ", last - 1));
    }
  }
  if (change.job.last_sequence != last) {
    verdict_.Break(absl::StrCat(change.job.id.value(), ": its last event is ", last,
                                ", the job says ", change.job.last_sequence));
  }
}

void Rows::Put(const JobChange& change) {
  if (change.model.has_value() && !models_.insert(change.model->name).second) {
    verdict_.Break(absl::StrCat(change.model->name, ": a second model of that name"));
  }
  if (change.shards.has_value()) shards_[change.job.shard_key] = *change.shards;
  if (IsFinal(change.job.state)) unfinished_.erase(change.job.id);
  jobs_[change.job.id] = change.job;
}

std::vector<Job> Rows::Unfinished() const {
  std::vector<Job> jobs;
  for (const JobId& id : unfinished_) {
    const Job& row = jobs_.at(id);
    Job& job = jobs.emplace_back();
    job.id = row.id;
    job.state = row.state;
    job.attempt = row.attempt;
    const absl::Status read = JobFromJson(JobToJson(row), job);
    if (!read.ok()) verdict_.Break(read.ToString());
  }
  return jobs;
}

const Job* Rows::Find(const JobId& id) const {
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? nullptr : &found->second;
}

const Job* Rows::FindByRequest(const std::string& request) const {
  const auto found = requests_.find(request);
  return found == requests_.end() ? nullptr : Find(found->second);
}

}  // namespace lathe::simulation
