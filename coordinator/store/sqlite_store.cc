#include "coordinator/store/sqlite_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "coordinator/store/documents.h"

namespace lathe {
namespace {

constexpr char kStateFile[] = "lathe.db";
constexpr char kStepsFile[] = "steps.db";
constexpr char kProject[] = "default";  // The only one so far.

constexpr char kStateSchema[] = R"sql(
CREATE TABLE IF NOT EXISTS jobs(
  number INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, project BLOB NOT NULL,
  request_id BLOB NOT NULL, state INTEGER NOT NULL, attempt INTEGER NOT NULL,
  document BLOB NOT NULL, UNIQUE(project, request_id));
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs(state);
CREATE TABLE IF NOT EXISTS events(
  job BLOB NOT NULL, sequence INTEGER NOT NULL, time_us INTEGER NOT NULL, state INTEGER NOT NULL,
  stage BLOB NOT NULL, attempt INTEGER NOT NULL, message BLOB NOT NULL,
  PRIMARY KEY(job, sequence)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS datasets(
  project BLOB NOT NULL, name BLOB NOT NULL, sha256 BLOB NOT NULL, document BLOB NOT NULL,
  PRIMARY KEY(project, name));
CREATE TABLE IF NOT EXISTS models(
  project BLOB NOT NULL, name BLOB NOT NULL, document BLOB NOT NULL, PRIMARY KEY(project, name));
CREATE TABLE IF NOT EXISTS shards(
  key BLOB PRIMARY KEY, dataset_sha256 BLOB NOT NULL, tree BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS results(key BLOB PRIMARY KEY, value BLOB NOT NULL);
)sql";

constexpr char kStepsSchema[] = R"sql(
CREATE TABLE IF NOT EXISTS steps(
  cursor INTEGER PRIMARY KEY AUTOINCREMENT, job BLOB NOT NULL, step INTEGER NOT NULL,
  attempt INTEGER NOT NULL, payload BLOB NOT NULL, UNIQUE(job, step));
CREATE INDEX IF NOT EXISTS steps_by_cursor ON steps(job, cursor);
)sql";

constexpr char kJobColumns[] = "SELECT number, id, state, attempt, document FROM jobs ";

absl::StatusOr<Job> ReadJob(const sqlite::Statement& row) {
  Job job;
  job.id = JobId(row.Text(1));
  job.state = static_cast<JobState>(row.Int(2));
  job.attempt = row.Int(3);
  LATHE_RETURN_IF_ERROR(JobFromJson(row.Text(4), job));
  return job;
}

// Reads all rows of `statement` with `read`.
template <class T, class Read>
absl::StatusOr<std::vector<T>> ReadAll(sqlite::Statement& statement, Read read) {
  std::vector<T> all;
  while (true) {
    LATHE_ASSIGN_OR_RETURN(const bool more, statement.Step());
    if (!more) return all;
    LATHE_ASSIGN_OR_RETURN(T one, read(statement));
    all.push_back(std::move(one));
  }
}

StepRecord ReadStepRow(const sqlite::Statement& row, const JobId& id) {
  return {.cursor = row.Int(0),
          .job = id,
          .step = row.Int(1),
          .attempt = row.Int(2),
          .payload = row.Text(3)};
}

absl::Status NoSuch(absl::string_view what, absl::string_view name, absl::string_view command) {
  return absl::NotFoundError(
      absl::StrCat(what, " '", name.substr(0, 80), "': there is none; see ", command));
}

absl::Status CheckVersion(sqlite::Database& database, const std::filesystem::path& path) {
  sqlite::Statement version = database.Prepare("PRAGMA user_version");
  LATHE_RETURN_IF_ERROR(version.Step().status());
  if (version.Int(0) <= kSchemaVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("database ", path.string(), " has version ",
                                                    version.Int(0), "; this program knows up to ",
                                                    kSchemaVersion, ": use the newer program"));
}

absl::StatusOr<sqlite::Database> OpenDatabase(const std::filesystem::path& path, bool full,
                                              const char* schema) {
  LATHE_ASSIGN_OR_RETURN(auto database, sqlite::Database::Open(path, full));
  LATHE_RETURN_IF_ERROR(CheckVersion(database, path));
  LATHE_RETURN_IF_ERROR(database.Execute(schema));
  LATHE_RETURN_IF_ERROR(database.Execute(absl::StrCat("PRAGMA user_version=", kSchemaVersion)));
  return database;
}

absl::Status CopyDatabase(const std::filesystem::path& from, const std::filesystem::path& to) {
  LATHE_ASSIGN_OR_RETURN(auto database, sqlite::Database::Open(from, /*full=*/true));
  LATHE_RETURN_IF_ERROR(WriteFileAtomically(to, "", 0600));  // With this mode from the start.
  LATHE_RETURN_IF_ERROR(database.Prepare("VACUUM INTO CAST(? AS TEXT)").Bind(to.string()).Run());
  return FsyncFile(to);
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteStore>> SqliteStore::Open(
    const std::filesystem::path& folder) {
  LATHE_RETURN_IF_ERROR(MakeFolder(folder, 0700));
  LATHE_ASSIGN_OR_RETURN(auto state,
                         OpenDatabase(folder / kStateFile, /*full=*/true, kStateSchema));
  LATHE_ASSIGN_OR_RETURN(auto steps,
                         OpenDatabase(folder / kStepsFile, /*full=*/false, kStepsSchema));
  return std::unique_ptr<SqliteStore>(new SqliteStore(folder, std::move(state), std::move(steps)));
}

// The steps after the states: a copy then never misses steps of an end that it tells of.
absl::Status SqliteStore::CopyTo(const std::filesystem::path& folder) {
  for (const char* file : {kStateFile, kStepsFile}) {
    LATHE_RETURN_IF_ERROR(CopyDatabase(folder_ / file, folder / file));
  }
  return FsyncFolder(folder);
}

absl::Status SqliteStore::CreateJob(const Job& job, const JobEvent& first) {
  const MutexLock lock(mutex_);
  LATHE_ASSIGN_OR_RETURN(auto transaction, sqlite::Transaction::Begin(state_));
  LATHE_RETURN_IF_ERROR(
      state_
          .Prepare("INSERT INTO jobs(id, project, request_id, state, attempt, document) "
                   "VALUES(?,?,?,?,?,?)")
          .Bind(job.id.value())
          .Bind(job.project)
          .Bind(job.request_id)
          .Bind(static_cast<int64_t>(job.state))
          .Bind(job.attempt)
          .Bind(JobToJson(job))
          .Run());
  LATHE_RETURN_IF_ERROR(InsertEventLocked(job.id, first));
  LATHE_RETURN_IF_ERROR(fault::Hit("store.create_job"));
  LATHE_RETURN_IF_ERROR(transaction.Commit());
  fault::Pass("store.created_job");
  return absl::OkStatus();
}

absl::Status SqliteStore::UpdateJobLocked(const Job& job) {
  LATHE_RETURN_IF_ERROR(state_
                            .Prepare("UPDATE jobs SET state=?, attempt=?, document=? "
                                     "WHERE id=? AND attempt<=? AND state NOT IN (6,7,8)")
                            .Bind(static_cast<int64_t>(job.state))
                            .Bind(job.attempt)
                            .Bind(JobToJson(job))
                            .Bind(job.id.value())
                            .Bind(job.attempt)
                            .Run());
  if (state_.NumChanged() == 1) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat(job.id.value(), ": attempt ", job.attempt, " is over, or the job has ended"));
}

absl::Status SqliteStore::InsertEventLocked(const JobId& id, const JobEvent& event) {
  absl::Status status = state_.Prepare("INSERT INTO events VALUES(?,?,?,?,?,?,?)")
                            .Bind(id.value())
                            .Bind(event.sequence)
                            .Bind(absl::ToUnixMicros(event.time))
                            .Bind(static_cast<int64_t>(event.state))
                            .Bind(event.stage)
                            .Bind(event.attempt)
                            .Bind(event.message)
                            .Run();
  if (!absl::IsAlreadyExists(status)) return status;
  return absl::AbortedError(
      absl::StrCat(id.value(), ": there is an event ", event.sequence, " already"));
}

absl::Status SqliteStore::InsertModelLocked(const Model& model) {
  absl::Status status = state_.Prepare("INSERT INTO models VALUES(?,?,?)")
                            .Bind(model.project)
                            .Bind(model.name)
                            .Bind(ModelToJson(model))
                            .Run();
  if (!absl::IsAlreadyExists(status)) return status;
  return absl::AlreadyExistsError(absl::StrCat("model '", model.name, "': there is one already"));
}

absl::Status SqliteStore::Commit(const std::vector<JobChange>& changes) {
  if (changes.empty()) return absl::OkStatus();
  const MutexLock lock(mutex_);
  LATHE_ASSIGN_OR_RETURN(auto transaction, sqlite::Transaction::Begin(state_));
  for (const JobChange& change : changes) {
    LATHE_RETURN_IF_ERROR(UpdateJobLocked(change.job));
    for (const JobEvent& event : change.events) {
      LATHE_RETURN_IF_ERROR(InsertEventLocked(change.job.id, event));
    }
    if (change.model.has_value()) LATHE_RETURN_IF_ERROR(InsertModelLocked(*change.model));
    if (change.shards.has_value()) {
      LATHE_RETURN_IF_ERROR(state_.Prepare("INSERT OR REPLACE INTO shards VALUES(?,?,?)")
                                .Bind(change.job.shard_key)
                                .Bind(change.job.dataset_blob.sha256)
                                .Bind(TreeToJson(*change.shards))
                                .Run());
    }
  }
  LATHE_RETURN_IF_ERROR(fault::Hit("store.commit"));
  LATHE_RETURN_IF_ERROR(transaction.Commit());
  fault::Pass("store.committed");
  return absl::OkStatus();
}

absl::StatusOr<Job> SqliteStore::GetJob(const JobId& id) {
  const MutexLock lock(mutex_);
  sqlite::Statement statement = state_.Prepare(absl::StrCat(kJobColumns, "WHERE id=?"));
  LATHE_ASSIGN_OR_RETURN(const bool found, statement.Bind(id.value()).Step());
  if (!found) return NoSuch("job", id.value(), "lathe jobs list");
  return ReadJob(statement);
}

absl::StatusOr<std::optional<Job>> SqliteStore::FindJobByRequest(const std::string& project,
                                                                 const std::string& request_id) {
  const MutexLock lock(mutex_);
  sqlite::Statement statement =
      state_.Prepare(absl::StrCat(kJobColumns, "WHERE project=? AND request_id=?"));
  LATHE_ASSIGN_OR_RETURN(const bool found, statement.Bind(project).Bind(request_id).Step());
  if (!found) return std::optional<Job>();
  LATHE_ASSIGN_OR_RETURN(Job job, ReadJob(statement));
  return std::optional<Job>(std::move(job));
}

absl::StatusOr<Store::JobPage> SqliteStore::ListJobs(int page_size, int64_t before) {
  const MutexLock lock(mutex_);
  sqlite::Statement statement = state_.Prepare(
      absl::StrCat(kJobColumns, "WHERE ?=0 OR number<? ORDER BY number DESC LIMIT ?"));
  statement.Bind(before).Bind(before).Bind(int64_t{page_size} + 1);
  JobPage page;
  int64_t last = 0;
  while (true) {
    LATHE_ASSIGN_OR_RETURN(const bool more, statement.Step());
    if (!more) return page;
    if (static_cast<int>(page.jobs.size()) == page_size) {
      page.next_before = last;
      return page;
    }
    last = statement.Int(0);
    LATHE_ASSIGN_OR_RETURN(Job job, ReadJob(statement));
    page.jobs.push_back(std::move(job));
  }
}

absl::StatusOr<std::vector<Job>> SqliteStore::UnfinishedJobs() {
  const MutexLock lock(mutex_);
  sqlite::Statement statement =
      state_.Prepare(absl::StrCat(kJobColumns, "WHERE state NOT IN (6,7,8) ORDER BY number"));
  return ReadAll<Job>(statement, ReadJob);
}

absl::StatusOr<std::map<JobState, int64_t>> SqliteStore::CountJobs() {
  const MutexLock lock(mutex_);
  sqlite::Statement statement = state_.Prepare("SELECT state, COUNT(*) FROM jobs GROUP BY state");
  std::map<JobState, int64_t> counts;
  while (true) {
    LATHE_ASSIGN_OR_RETURN(const bool more, statement.Step());
    if (!more) return counts;
    counts[static_cast<JobState>(statement.Int(0))] = statement.Int(1);
  }
}

absl::StatusOr<std::vector<JobEvent>> SqliteStore::Events(const JobId& id, int64_t after_sequence,
                                                          int limit) {
  const MutexLock lock(mutex_);
  sqlite::Statement statement = state_.Prepare(
      "SELECT sequence, time_us, state, stage, attempt, message FROM events "
      "WHERE job=? AND sequence>? ORDER BY sequence LIMIT ?");
  statement.Bind(id.value()).Bind(after_sequence).Bind(limit);
  return ReadAll<JobEvent>(statement, [](const sqlite::Statement& row) -> absl::StatusOr<JobEvent> {
    return JobEvent{.sequence = row.Int(0),
                    .time = absl::FromUnixMicros(row.Int(1)),
                    .state = static_cast<JobState>(row.Int(2)),
                    .stage = row.Text(3),
                    .attempt = row.Int(4),
                    .message = row.Text(5)};
  });
}

absl::Status SqliteStore::PutStep(const StepRecord& step) {
  const MutexLock lock(steps_mutex_);
  LATHE_RETURN_IF_ERROR(fault::Hit("store.step"));
  // A new row with a new cursor, so that who watches sees the repeated step of a later attempt.
  return steps_.Prepare("INSERT OR REPLACE INTO steps(job, step, attempt, payload) VALUES(?,?,?,?)")
      .Bind(step.job.value())
      .Bind(step.step)
      .Bind(step.attempt)
      .Bind(step.payload)
      .Run();
}

absl::StatusOr<std::vector<StepRecord>> SqliteStore::Steps(const JobId& id, int64_t after_cursor,
                                                           int64_t after_step, int limit) {
  const MutexLock lock(steps_mutex_);
  sqlite::Statement statement = steps_.Prepare(
      "SELECT cursor, step, attempt, payload FROM steps "
      "WHERE job=? AND cursor>? AND step>? ORDER BY cursor LIMIT ?");
  statement.Bind(id.value()).Bind(after_cursor).Bind(after_step).Bind(limit);
  return ReadAll<StepRecord>(statement,
                             [&](const sqlite::Statement& row) -> absl::StatusOr<StepRecord> {
                               return ReadStepRow(row, id);
                             });
}

absl::StatusOr<std::optional<StepRecord>> SqliteStore::LastStep(const JobId& id) {
  const MutexLock lock(steps_mutex_);
  sqlite::Statement statement = steps_.Prepare(
      "SELECT cursor, step, attempt, payload FROM steps WHERE job=? ORDER BY cursor DESC LIMIT 1");
  LATHE_ASSIGN_OR_RETURN(const bool found, statement.Bind(id.value()).Step());
  if (!found) return std::optional<StepRecord>();
  return std::optional<StepRecord>(ReadStepRow(statement, id));
}

absl::Status SqliteStore::PutDataset(const Dataset& dataset) {
  LATHE_RETURN_IF_ERROR(fault::Hit("store.dataset"));
  const MutexLock lock(mutex_);
  absl::Status status = state_.Prepare("INSERT INTO datasets VALUES(?,?,?,?)")
                            .Bind(dataset.project)
                            .Bind(dataset.name)
                            .Bind(dataset.blob.sha256)
                            .Bind(DatasetToJson(dataset))
                            .Run();
  if (!absl::IsAlreadyExists(status)) return status;
  return absl::AlreadyExistsError(
      absl::StrCat("data set '", dataset.name, "': there is one already"));
}

absl::StatusOr<Dataset> SqliteStore::GetDataset(const std::string& name) {
  const MutexLock lock(mutex_);
  sqlite::Statement statement =
      state_.Prepare("SELECT document FROM datasets WHERE project=? AND name=?");
  LATHE_ASSIGN_OR_RETURN(const bool found, statement.Bind(kProject).Bind(name).Step());
  if (!found) return NoSuch("data set", name, "lathe datasets list");
  return DatasetFromJson(statement.Text(0));
}

absl::StatusOr<std::vector<Dataset>> SqliteStore::ListDatasets() {
  const MutexLock lock(mutex_);
  sqlite::Statement statement = state_.Prepare("SELECT document FROM datasets ORDER BY name");
  return ReadAll<Dataset>(statement, [](const auto& row) { return DatasetFromJson(row.Text(0)); });
}

absl::Status SqliteStore::DeleteDataset(const std::string& name) {
  const MutexLock lock(mutex_);
  LATHE_ASSIGN_OR_RETURN(auto transaction, sqlite::Transaction::Begin(state_));
  LATHE_RETURN_IF_ERROR(state_.Prepare("DELETE FROM datasets WHERE name=?").Bind(name).Run());
  if (state_.NumChanged() == 0) return NoSuch("data set", name, "lathe datasets list");
  LATHE_RETURN_IF_ERROR(state_.Execute(
      "DELETE FROM shards WHERE dataset_sha256 NOT IN (SELECT sha256 FROM datasets)"));
  return transaction.Commit();
}

absl::Status SqliteStore::PutModel(const Model& model) {
  LATHE_RETURN_IF_ERROR(fault::Hit("store.model"));
  const MutexLock lock(mutex_);
  return InsertModelLocked(model);
}

absl::StatusOr<Model> SqliteStore::GetModel(const std::string& name) {
  const MutexLock lock(mutex_);
  sqlite::Statement statement =
      state_.Prepare("SELECT document FROM models WHERE project=? AND name=?");
  LATHE_ASSIGN_OR_RETURN(const bool found, statement.Bind(kProject).Bind(name).Step());
  if (!found) return NoSuch("model", name, "lathe models list");
  return ModelFromJson(statement.Text(0));
}

absl::StatusOr<std::vector<Model>> SqliteStore::ListModels() {
  const MutexLock lock(mutex_);
  sqlite::Statement statement = state_.Prepare("SELECT document FROM models ORDER BY name");
  return ReadAll<Model>(statement, [](const auto& row) { return ModelFromJson(row.Text(0)); });
}

absl::Status SqliteStore::DeleteModel(const std::string& name) {
  const MutexLock lock(mutex_);
  LATHE_RETURN_IF_ERROR(state_.Prepare("DELETE FROM models WHERE name=?").Bind(name).Run());
  return state_.NumChanged() > 0 ? absl::OkStatus() : NoSuch("model", name, "lathe models list");
}

absl::StatusOr<std::map<std::string, FileTree>> SqliteStore::AllShards() {
  const MutexLock lock(mutex_);
  sqlite::Statement statement = state_.Prepare("SELECT key, tree FROM shards");
  std::map<std::string, FileTree> all;
  while (true) {
    LATHE_ASSIGN_OR_RETURN(const bool more, statement.Step());
    if (!more) return all;
    LATHE_ASSIGN_OR_RETURN(all[statement.Text(0)], TreeFromJson(statement.Text(1)));
  }
}

absl::Status SqliteStore::PutResult(const std::string& key, const std::string& value) {
  const MutexLock lock(mutex_);
  return state_.Prepare("INSERT OR REPLACE INTO results VALUES(?,?)").Bind(key).Bind(value).Run();
}

absl::StatusOr<std::optional<std::string>> SqliteStore::GetResult(const std::string& key) {
  const MutexLock lock(mutex_);
  sqlite::Statement statement = state_.Prepare("SELECT value FROM results WHERE key=?");
  LATHE_ASSIGN_OR_RETURN(const bool found, statement.Bind(key).Step());
  if (!found) return std::optional<std::string>();
  return std::optional<std::string>(statement.Text(0));
}

absl::StatusOr<std::set<std::string>> SqliteStore::ReferencedBlobs() {
  std::set<std::string> blobs;
  const auto add = [&](const FileTree& tree) {
    for (const FileRef& file : tree) blobs.insert(file.blob.sha256);
  };
  LATHE_ASSIGN_OR_RETURN(const auto datasets, ListDatasets());
  for (const Dataset& dataset : datasets) blobs.insert(dataset.blob.sha256);
  LATHE_ASSIGN_OR_RETURN(const auto models, ListModels());
  for (const Model& model : models) add(model.files);
  LATHE_ASSIGN_OR_RETURN(const auto shards, AllShards());
  for (const auto& [key, tree] : shards) add(tree);
  LATHE_ASSIGN_OR_RETURN(const auto jobs, UnfinishedJobs());
  for (const Job& job : jobs) {
    blobs.insert(job.dataset_blob.sha256);
    add(job.base.files);
    add(job.parent.files);
    add(job.checkpoint.files);
    add(job.fallback.files);
  }
  return blobs;
}

}  // namespace lathe
