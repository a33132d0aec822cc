#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lathe/internal/v1/agent.pb.h"
#include "worker/agent/agent_options.h"
#include "worker/agent/agent_probe.h"
#include "worker/agent/assignment_task.h"
#include "worker/agent/chat_relay.h"
#include "worker/agent/checkpoint_relay.h"
#include "worker/agent/log_publisher.h"
#include "worker/agent/outbox.h"
#include "worker/agent/spawner.h"
#include "worker/agent/supervisor.h"
#include "worker/agent/transfers.h"

namespace lathe::agent {

// What all assignments of an agent share; outlives them.
struct AgentParts {
  const AgentOptions& options;
  const std::filesystem::path assignments_folder;
  CoordinatorChannel& channel;
  Spawner& spawner;
  Transfers& transfers;
  Outbox& outbox;
  LogPublisher& logs;
  AgentProbe& probe;
};

// One assignment from its arrival to its `ended`: fetch inputs, start the child, relay, upload,
// report, remove its folder. Runs on a thread of its own; the methods may be called from any.
class AssignmentRun final : public ChildListener {
 public:
  // `gpus`: the child sees these and no other.
  AssignmentRun(pb::Assignment assignment, const AgentParts& parts, std::vector<int> gpus = {});
  // Stops it and waits for its end.
  ~AssignmentRun() override;

  void Stop(const StopReason& reason);
  // A stop does not drop a checkpoint that is on its way to the store.
  void KeepCheckpoint() { keeps_checkpoint_ = true; }
  // Lets a rank of a training end by itself, with a checkpoint.
  void Pause();
  void SetRendezvous(const pb::Rendezvous& rendezvous);
  void StartChat(const pb::ChatStart& chat);
  void CancelChat(const std::string& chat_id);

  // Slots it holds: none from just before its `ended` is sent.
  int slots() const { return ended_ ? 0 : assignment_.slots(); }
  std::vector<int> gpus() const { return ended_ ? std::vector<int>() : gpus_; }
  bool finished() const { return finished_; }
  // Computes for a job, and has not ended.
  bool serves_job() const {
    return !ended_ && (assignment_.task().has_train() || assignment_.task().has_prepare());
  }

  void OnMessage(const pb::ChildMessage& message) override;
  void OnLine(std::string line) override;
  void OnStarted(pid_t pid) override;
  void OnAbort() override;

 private:
  void Run(const std::stop_token& stop);
  pb::Ended Execute(const std::stop_token& stop);
  absl::Status FetchInputs(const std::stop_token& stop);
  absl::StatusOr<ChildStory> RunChild();
  void AddOutputs(pb::Ended& ended, const std::stop_token& stop);
  void Push(pb::AssignmentUpdate update);

  const pb::Assignment assignment_;
  const AgentParts& parts_;
  const std::vector<int> gpus_;
  const AssignmentFolders folders_;
  const LogPublisher::Origin origin_;
  Supervisor supervisor_;
  UniqueFd listener_socket_;          // Of rank 0, until its child has it. Of thread_ alone.
  std::unique_ptr<ChatRelay> chats_;  // Of a serve assignment; constant after construction.
  std::unique_ptr<CheckpointRelay> checkpoints_;  // Of rank 0, while its child runs.
  std::atomic<bool> has_rendezvous_ = false;
  std::atomic<bool> keeps_checkpoint_ = false;
  std::atomic<bool> ended_ = false;
  std::atomic<bool> finished_ = false;
  std::jthread thread_;
};

}  // namespace lathe::agent
