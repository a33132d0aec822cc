#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "common/base/mutex.h"
#include "coordinator/store/sqlite.h"
#include "coordinator/store/store.h"

namespace lathe {

// Of both databases; a database of a newer one is refused, an older one is brought forward.
inline constexpr int64_t kSchemaVersion = 1;

// Two files in one folder: lathe.db (WAL, synchronous FULL) and steps.db (synchronous NORMAL: a
// power loss may cost the last steps, which a restarted attempt writes again).
class SqliteStore final : public Store {
 public:
  // FailedPrecondition: the database is of a newer version of this program.
  static absl::StatusOr<std::unique_ptr<SqliteStore>> Open(const std::filesystem::path& folder);

  absl::Status CreateJob(const Job& job, const JobEvent& first) override;
  absl::Status Commit(const std::vector<JobChange>& changes) override;
  absl::StatusOr<Job> GetJob(const JobId& id) override;
  absl::StatusOr<std::optional<Job>> FindJobByRequest(const std::string& project,
                                                      const std::string& request_id) override;
  absl::StatusOr<JobPage> ListJobs(int page_size, int64_t before) override;
  absl::StatusOr<std::vector<Job>> UnfinishedJobs() override;
  absl::StatusOr<std::map<JobState, int64_t>> CountJobs() override;
  absl::StatusOr<std::vector<JobEvent>> Events(const JobId& id, int64_t after_sequence,
                                               int limit) override;
  absl::Status PutStep(const StepRecord& step) override;
  absl::StatusOr<std::vector<StepRecord>> Steps(const JobId& id, int64_t after_cursor,
                                                int64_t after_step, int limit) override;
  absl::StatusOr<std::optional<StepRecord>> LastStep(const JobId& id) override;
  absl::Status PutDataset(const Dataset& dataset) override;
  absl::StatusOr<Dataset> GetDataset(const std::string& name) override;
  absl::StatusOr<std::vector<Dataset>> ListDatasets() override;
  absl::Status DeleteDataset(const std::string& name) override;
  absl::Status PutModel(const Model& model) override;
  absl::StatusOr<Model> GetModel(const std::string& name) override;
  absl::StatusOr<std::vector<Model>> ListModels() override;
  absl::Status DeleteModel(const std::string& name) override;
  absl::StatusOr<std::map<std::string, FileTree>> AllShards() override;
  absl::Status PutResult(const std::string& key, const std::string& value) override;
  absl::StatusOr<std::optional<std::string>> GetResult(const std::string& key) override;
  absl::StatusOr<std::set<std::string>> ReferencedBlobs() override;
  // Reads through connections of its own: who writes meanwhile does not wait.
  absl::Status CopyTo(const std::filesystem::path& folder) override;

 private:
  SqliteStore(std::filesystem::path folder, sqlite::Database state, sqlite::Database steps)
      : folder_(std::move(folder)), state_(std::move(state)), steps_(std::move(steps)) {}
  absl::Status UpdateJobLocked(const Job& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status InsertEventLocked(const JobId& id, const JobEvent& event)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status InsertModelLocked(const Model& model) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::filesystem::path folder_;
  // A connection serves one thread at a time, so the locks are held across its disk work.
  Mutex mutex_;
  sqlite::Database state_ ABSL_GUARDED_BY(mutex_);
  Mutex steps_mutex_;
  sqlite::Database steps_ ABSL_GUARDED_BY(steps_mutex_);
};

}  // namespace lathe
