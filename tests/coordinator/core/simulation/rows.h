#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "coordinator/core/records.h"
#include "tests/coordinator/core/simulation/verdict.h"

namespace lathe::simulation {

// What the store would hold: survives every crash of the coordinator. Has the store's fences, and
// holds each change to what is promised of a job's life.
class Rows {
 public:
  explicit Rows(Verdict& verdict) : verdict_(verdict) {}

  void Create(const Job& job, const JobEvent& first);
  // All or none, as one transaction.
  void Commit(const std::vector<JobChange>& changes);
  // What a coordinator that starts reads: through the text that is stored, oldest first.
  std::vector<Job> Unfinished() const;
  const Job* Find(const JobId& id) const;
  const Job* FindByRequest(const std::string& request) const;

  const std::map<std::string, FileTree>& shards() const { return shards_; }
  const std::map<JobId, Job>& jobs() const { return jobs_; }
  const std::set<JobId>& unfinished() const { return unfinished_; }

 private:
  void CheckMove(const Job& before, const Job& after);
  void CheckEvents(const Job& before, const JobChange& change);
  void Put(const JobChange& change);

  Verdict& verdict_;
  std::map<JobId, Job> jobs_;  // Ids sort by creation.
  std::map<std::string, JobId> requests_;
  std::set<JobId> unfinished_;
  std::set<std::string> models_;
  std::map<std::string, FileTree> shards_;
};

}  // namespace lathe::simulation
