#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/blob/blob_store.h"
#include "coordinator/core/core.h"
#include "coordinator/core/deployments.h"
#include "coordinator/service/chats.h"
#include "coordinator/service/hub.h"
#include "coordinator/service/job_logs.h"
#include "coordinator/service/loop.h"
#include "coordinator/service/probe.h"
#include "coordinator/service/tasks.h"
#include "coordinator/store/store.h"
#include "lathe/internal/v1/agent.pb.h"

namespace lathe {

struct CoordinatorOptions {
  CoreOptions core;
  absl::Duration heartbeat_interval = absl::Seconds(4);  // At least three per lease.
  absl::Duration orphan_timeout = absl::Minutes(15);
  absl::Duration check_timeout = absl::Minutes(5);      // Of CheckDataset and PreviewDataset.
  absl::Duration import_timeout = absl::Minutes(60);    // Of ImportModel, after the upload.
  absl::Duration chat_idle_timeout = absl::Minutes(5);  // A model that nobody talks to is unloaded.
  int max_deployments = 4;                              // Base models served at once.
  int64_t max_dataset_bytes = int64_t{4} << 30;
  int64_t max_model_bytes = int64_t{256} << 30;
  int64_t max_log_bytes_per_job = int64_t{64} << 20;
  // Keeps what is known of a training that stood still. Called on the loop's thread.
  std::function<void(const HangReport&)> keep_hang = [](const HangReport&) {};
};

// The connection to an agent, as the coordinator needs it. Methods are called on the loop's thread
// and return at once.
class AgentLink {
 public:
  virtual ~AgentLink() = default;
  virtual void Send(internal::v1::CoordinatorMessage message) = 0;
  // The last message was dealt with: the next one may come.
  virtual void ReadNext() = 0;
  virtual void Close(const absl::Status& status) = 0;

  // Of the loop's thread.
  WorkerId worker;
  SessionId session = 0;
};

// What is told about an errand, on the loop's thread: must return at once and not call back.
struct ErrandCallbacks {
  std::function<void(const std::string&)> on_progress;
  std::function<void(const Ended&)> on_end;
};

// Puts core, store and connections together: owns the core on one thread, stores what it decides
// before anybody hears of it, and passes its orders on. Thread-safe; calls wait for their turn on
// that thread.
class Coordinator {
 public:
  // `on_fatal`: a decision could not be stored; the process must end, a new one goes on from what
  // is stored. All references must outlive the coordinator.
  Coordinator(CoordinatorOptions options, Store& store, BlobStore& blobs, Hub& hub, Chats& chats,
              Probe& probe, const Clock& clock, std::function<void(const absl::Status&)> on_fatal);
  ~Coordinator();

  // Takes over what an earlier process left.
  absl::Status Start();
  void Stop();

  // --- Jobs. `request_sha256` is over the spec as it was sent.
  absl::StatusOr<Job> CreateJob(const std::string& request_id, const std::string& request_sha256,
                                const JobSpec& spec);
  absl::StatusOr<Job> CancelJob(const JobId& id);
  // Errors: those of Core's, and FailedPrecondition for a job that has ended.
  absl::StatusOr<Job> PauseJob(const JobId& id);
  absl::StatusOr<Job> ResumeJob(const JobId& id);
  bool MayWrite(const std::string& owner, int64_t attempt);
  // Whether the id is that of a job, running or over.
  bool KnowsJob(const JobId& id);

  // --- Names. Errors: see the public protos.
  absl::StatusOr<Dataset> AddDataset(Dataset dataset);
  absl::Status DeleteDataset(const std::string& name);
  absl::StatusOr<Model> AddModel(Model model);
  absl::Status DeleteModel(const std::string& name);
  // Whether an import may use the name: AlreadyExists.
  absl::Status CheckModelName(const std::string& name);
  // Removes those of the blobs that nothing needs.
  void DropBlobs(const FileTree& tree);
  // Until the object is gone no blob is removed. What came up meanwhile is looked at again then.
  class KeptBlobs {
   public:
    explicit KeptBlobs(Coordinator& coordinator);
    ~KeptBlobs();
    KeptBlobs(const KeptBlobs&) = delete;
    KeptBlobs& operator=(const KeptBlobs&) = delete;

   private:
    Coordinator& coordinator_;
  };

  // --- Agents
  void OnAgentMessage(std::shared_ptr<AgentLink> link, internal::v1::AgentMessage message);
  // `goodbye`: the agent ended the stream itself.
  void OnAgentGone(std::shared_ptr<AgentLink> link, bool goodbye);
  struct WorkerSnapshot {
    Worker worker;
    std::vector<std::string> assignments;  // "job-... train rank 0".
  };
  std::vector<WorkerSnapshot> Workers();

  // --- Errands
  absl::StatusOr<std::string> StartErrand(const std::string& role, ErrandTask task,
                                          absl::Duration timeout, ErrandCallbacks callbacks);
  void CancelErrand(const std::string& errand);

  // --- Chats. Returns the chat's id.
  absl::StatusOr<std::string> OpenChat(const v1::ChatRequest& request,
                                       std::shared_ptr<ChatSession> session);
  void CloseChat(const std::string& id);

  const CoordinatorOptions& options() const { return options_; }

 private:
  struct ErrandState {
    ErrandTask task;
    ErrandCallbacks callbacks;
  };
  struct ChatTarget {
    std::string base;
    std::string base_storage = "f32";  // BaseStorageOf() the job that made the adapter.
    FileTree base_files = {};
    FileTree adapter = {};  // Empty: the base itself.

    // Models that are held alike share a process.
    std::string deployment() const { return absl::StrCat(base, " in ", base_storage); }
  };

  // All on the loop's thread.
  void Apply(const Effects& effects);
  void Send(const Command& command);
  void SendTo(const WorkerId& worker, internal::v1::CoordinatorMessage message);
  void Publish(const JobChange& change);
  void OnDeadline();
  absl::Time NextDeadline() const;
  absl::StatusOr<Job> CreateJobOnLoop(const std::string& request_id,
                                      const std::string& request_sha256, JobSpec spec);
  absl::Status ResolveNames(Job& job);
  absl::Status ResolveParent(Job& job);
  using JobDecision = absl::Status (Core::*)(const JobId&, absl::Time, Effects&);
  // `needs_life`: what a job that has ended cannot be, such as "paused". Empty: it stays as it is.
  absl::StatusOr<Job> ChangeJob(const JobId& id, JobDecision decision,
                                absl::string_view needs_life);
  absl::Status CheckModelNameOnLoop(const std::string& name);
  absl::Status CheckBlobs(const FileTree& tree) const;
  absl::Status DeleteDatasetOnLoop(const std::string& name);
  absl::Status DeleteModelOnLoop(const std::string& name);
  void DropBlobsOnLoop(const FileTree& tree);
  void RemoveUnusedBlobs();
  absl::Status Register(const std::shared_ptr<AgentLink>& link,
                        const internal::v1::Register& hello);
  void OnHeartbeat(AgentLink& link, const internal::v1::Heartbeat& heartbeat);
  void OnUpdate(const AgentLink& link, const internal::v1::AssignmentUpdate& update);
  void OnStep(const Assignment& assignment, const v1::StepStats& step);
  void DropCheckpoint(const internal::v1::SavedCheckpoint& saved);
  void OnCheckpoint(const Assignment& assignment, const internal::v1::SavedCheckpoint& saved,
                    Effects& effects);
  void OnEndedUpdate(const AgentLink& link, const internal::v1::AssignmentUpdate& update);
  absl::StatusOr<std::string> StartErrandOnLoop(const std::string& role, ErrandTask task,
                                                absl::Time deadline, ErrandCallbacks callbacks);
  void OnErrandEnd(const ErrandEnd& end);
  absl::StatusOr<ChatTarget> FindChatTarget(const std::string& model);
  absl::Status EnsureDeployment(const ChatTarget& target);
  absl::StatusOr<std::string> OpenChatOnLoop(const v1::ChatRequest& request,
                                             std::shared_ptr<ChatSession> session);
  void EndChat(const std::string& id, const absl::Status& status);

  const CoordinatorOptions options_;
  Store& store_;
  BlobStore& blobs_;
  Hub& hub_;
  Chats& chats_;
  Probe& probe_;
  const Clock& clock_;
  const std::function<void(const absl::Status&)> on_fatal_;

  // Of the loop's thread.
  Core core_;
  Deployments deployments_;
  std::map<WorkerId, std::shared_ptr<AgentLink>> links_;  // Shared with gRPC's reactor.
  std::map<std::string, ErrandState> errands_;
  std::map<std::string, FileTree> shards_;
  std::map<JobId, JobState> states_;                        // Of unfinished jobs.
  std::map<JobId, std::pair<int64_t, int64_t>> last_step_;  // Attempt and step.
  SessionId last_session_ = 0;
  int num_keepers_ = 0;  // Of blobs.
  FileTree drop_later_;  // While there are keepers.

  Loop loop_;  // Last: it ends before what it uses.
};

}  // namespace lathe
