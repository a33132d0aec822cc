#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/core/records.h"

namespace lathe {

// The coordinator's memory. Thread-safe. What a method that writes acknowledged survives a crash of
// the machine, except steps, which survive a crash of the process.
//
// Errors: NotFound, AlreadyExists as said; ResourceExhausted: the disk is full; Internal.
class Store {
 public:
  virtual ~Store() = default;

  // --- Jobs. State and event are one transaction.
  // AlreadyExists: the id or (project, request_id) is taken.
  virtual absl::Status CreateJob(const Job& job, const JobEvent& first) = 0;
  // All or none. Fenced: Aborted if a stored job has a newer attempt or has ended, or an event's
  // sequence is taken.
  virtual absl::Status Commit(const std::vector<JobChange>& changes) = 0;
  virtual absl::StatusOr<Job> GetJob(const JobId& id) = 0;  // NotFound.
  virtual absl::StatusOr<std::optional<Job>> FindJobByRequest(const std::string& project,
                                                              const std::string& request_id) = 0;
  // Newest first. `before`: only older ones than that job's number; 0: from the newest.
  struct JobPage {
    std::vector<Job> jobs;
    int64_t next_before = 0;  // 0: the end.
  };
  virtual absl::StatusOr<JobPage> ListJobs(int page_size, int64_t before) = 0;
  virtual absl::StatusOr<std::vector<Job>> UnfinishedJobs() = 0;  // Oldest first.
  virtual absl::StatusOr<std::map<JobState, int64_t>> CountJobs() = 0;
  virtual absl::StatusOr<std::vector<JobEvent>> Events(const JobId& id, int64_t after_sequence,
                                                       int limit) = 0;

  // --- Steps, keyed by (job, step): the last attempt wins.
  virtual absl::Status PutStep(const StepRecord& step) = 0;
  // In the order they were written, with cursor > after_cursor and step > after_step.
  virtual absl::StatusOr<std::vector<StepRecord>> Steps(const JobId& id, int64_t after_cursor,
                                                        int64_t after_step, int limit) = 0;
  virtual absl::StatusOr<std::optional<StepRecord>> LastStep(const JobId& id) = 0;

  // --- Names
  virtual absl::Status PutDataset(const Dataset& dataset) = 0;  // AlreadyExists.
  virtual absl::StatusOr<Dataset> GetDataset(const std::string& name) = 0;
  virtual absl::StatusOr<std::vector<Dataset>> ListDatasets() = 0;
  virtual absl::Status DeleteDataset(const std::string& name) = 0;
  virtual absl::Status PutModel(const Model& model) = 0;  // AlreadyExists.
  virtual absl::StatusOr<Model> GetModel(const std::string& name) = 0;
  virtual absl::StatusOr<std::vector<Model>> ListModels() = 0;
  virtual absl::Status DeleteModel(const std::string& name) = 0;

  // --- What was computed once
  virtual absl::StatusOr<std::map<std::string, FileTree>> AllShards() = 0;
  virtual absl::Status PutResult(const std::string& key, const std::string& value) = 0;
  virtual absl::StatusOr<std::optional<std::string>> GetResult(const std::string& key) = 0;
  // sha256 of every blob that a data set, model, shard folder or unfinished job needs.
  virtual absl::StatusOr<std::set<std::string>> ReferencedBlobs() = 0;

  // --- Backup
  // Writes all that was acknowledged before the call, and perhaps more, into an empty folder, as
  // files of a store that can be opened. Writers go on meanwhile. The files are synced.
  virtual absl::Status CopyTo(const std::filesystem::path& folder) = 0;
};

}  // namespace lathe
