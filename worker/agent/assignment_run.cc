#include "worker/agent/assignment_run.h"

#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/exit_codes.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "worker/agent/ending.h"
#include "worker/agent/rendezvous_socket.h"
#include "worker/agent/text_line.h"

namespace lathe::agent {
namespace {

namespace fs = std::filesystem;

// A gRPC message holds 4 MiB; the rest is for what goes around it.
constexpr size_t kMaxEndedBytes = (4 << 20) - (64 << 10);
constexpr size_t kMaxProgressBytes = 500;
constexpr absl::Duration kLogFlushTimeout = absl::Seconds(1);
// Half of what the coordinator waits for the end of what it cancels.
constexpr absl::Duration kCheckpointPatience = absl::Seconds(30);

absl::Status MakeFolders(const AssignmentFolders& folders) {
  // Not the output folder: the child makes it, whole or not at all.
  for (const fs::path& folder : {folders.root, folders.work()}) {
    LATHE_RETURN_IF_ERROR(MakeFolder(folder, 0700));
  }
  return absl::OkStatus();
}

}  // namespace

AssignmentRun::AssignmentRun(pb::Assignment assignment, const AgentParts& parts,
                             std::vector<int> gpus)
    : assignment_(std::move(assignment)),
      parts_(parts),
      gpus_(std::move(gpus)),
      folders_{parts.assignments_folder / assignment_.id()},
      origin_{assignment_.job_id(), assignment_.id(),
              SourceLabel(assignment_.task(), parts.options.name)},
      supervisor_({parts.options.cancel_grace, parts.options.exit_grace}, *this) {
  if (IsServe(assignment_.task())) {
    chats_ = std::make_unique<ChatRelay>(parts_.channel, parts_.transfers, supervisor_,
                                         folders_.adapters());
  }
  if (OwnsRendezvous(assignment_.task())) {
    checkpoints_ = std::make_unique<CheckpointRelay>(
        parts_.transfers,
        CheckpointRelay::Origin{assignment_.job_id(), assignment_.attempt(),
                                folders_.checkpoints()},
        [this](pb::SavedCheckpoint saved) {
          pb::AssignmentUpdate update;
          *update.mutable_checkpoint() = std::move(saved);
          Push(std::move(update));
        });
  }
  thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
}

AssignmentRun::~AssignmentRun() { Stop({"machine", "this worker is being stopped"}); }

void AssignmentRun::Stop(const StopReason& reason) {
  supervisor_.Stop(reason);
  thread_.request_stop();
}

void AssignmentRun::Pause() {
  if (!IsTrain(assignment_.task())) return;
  pb::ParentMessage message;
  message.mutable_pause();
  supervisor_.Post(std::move(message));
}

void AssignmentRun::SetRendezvous(const pb::Rendezvous& rendezvous) {
  // The coordinator may send it again after a broken connection; the child takes one.
  if (!IsTrain(assignment_.task()) || has_rendezvous_.exchange(true)) return;
  pb::ParentMessage message;
  *message.mutable_rendezvous() = rendezvous;
  supervisor_.Post(std::move(message));
}

void AssignmentRun::StartChat(const pb::ChatStart& chat) {
  if (chats_ != nullptr) chats_->Start(chat);
}

void AssignmentRun::CancelChat(const std::string& chat_id) {
  if (chats_ != nullptr) chats_->Cancel(chat_id);
}

void AssignmentRun::Run(const std::stop_token& stop) {
  const std::string kind = TaskKind(assignment_.task());
  parts_.probe.OnAssignmentStarted(kind);
  pb::Ended ended = Execute(stop);
  if (chats_ != nullptr) chats_->Finish(ended.message());
  if (checkpoints_ != nullptr && !ended.ok()) {
    checkpoints_->Finish(stop);
    if (keeps_checkpoint_) checkpoints_->FinishWithin(kCheckpointPatience);
  }
  checkpoints_.reset();  // Before its folder goes.
  if (ended.ByteSizeLong() > kMaxEndedBytes) {
    ended = EndedByAgent(origin_.source, absl::InvalidArgumentError(
                                             absl::StrCat("its result has ", ended.ByteSizeLong(),
                                                          " bytes; at most ", kMaxEndedBytes)));
  }
  fault::Pass("agent.clean");
  std::error_code error;
  fs::remove_all(folders_.root, error);
  if (error) LogWarning(absl::StrCat(folders_.root.string(), ": remove: ", error.message()));
  // Why it failed should be in the log when the job ends.
  parts_.logs.Flush(stop.stop_requested() ? absl::ZeroDuration() : kLogFlushTimeout);
  LogInfo(absl::StrCat(origin_.source, ": ended: ", ended.ok() ? "ok" : ended.message()));
  parts_.probe.OnAssignmentEnded(kind, ended.ok() ? "ok" : ended.cause());
  ended_ = true;
  pb::AssignmentUpdate update;
  *update.mutable_ended() = std::move(ended);
  Push(std::move(update));
  finished_ = true;
}

pb::Ended AssignmentRun::Execute(const std::stop_token& stop) {
  absl::Status status = FetchInputs(stop);
  if (status.ok()) {
    absl::StatusOr<ChildStory> story = RunChild();
    status = story.status();
    if (story.ok()) {
      story->source = origin_.source;
      story->folder = folders_.root.string();
      pb::Ended ended = Judge(*story);
      if (ended.ok()) AddOutputs(ended, stop);
      return ended;
    }
  }
  const std::optional<StopReason> stopped = supervisor_.stop_reason();
  return stopped.has_value() ? EndedByStop(origin_.source, *stopped)
                             : EndedByAgent(origin_.source, status);
}

absl::Status AssignmentRun::FetchInputs(const std::stop_token& stop) {
  LATHE_RETURN_IF_ERROR(ValidateAssignment(assignment_, parts_.options));
  LATHE_RETURN_IF_ERROR(MakeFolders(folders_));
  LATHE_RETURN_IF_ERROR(fault::Hit("agent.fetch"));
  for (const auto& [name, tree] : assignment_.inputs()) {
    // A checkpoint is given up when its bytes are wrong: not for a fault of this disk.
    const Rehash rehash = name == kResumeInput ? Rehash::kYes : Rehash::kNo;
    const absl::Status status =
        Annotate(parts_.transfers.FetchTree(tree, folders_.input(name), rehash, stop),
                 absl::StrCat("input ", name));
    LATHE_RETURN_IF_ERROR(name == kResumeInput ? MarkBadCheckpoint(status) : status);
  }
  LATHE_RETURN_IF_ERROR(fault::Hit("agent.fetched"));
  return stop.stop_requested() ? absl::CancelledError("stopped") : absl::OkStatus();
}

absl::StatusOr<ChildStory> AssignmentRun::RunChild() {
  const pb::Task task = FillTask(assignment_, folders_, parts_.options);
  SpawnRequest request;
  request.program = parts_.options.program_folder / ProgramOf(task);
  request.arguments = {"worker"};
  request.environment = ChildEnvironment(task, folders_, parts_.options, gpus_);
  request.working_folder = folders_.work();
  if (OwnsRendezvous(task)) {
    LATHE_RETURN_IF_ERROR(fault::Hit("agent.rendezvous"));
    LATHE_ASSIGN_OR_RETURN(RendezvousSocket rendezvous, BindRendezvous());
    listener_socket_ = std::move(rendezvous.fd);
    request.inherited = {listener_socket_.get()};
    pb::AssignmentUpdate update;
    *update.mutable_rendezvous() = rendezvous.address;
    Push(std::move(update));
  }
  LATHE_RETURN_IF_ERROR(fault::Hit("agent.spawn"));
  absl::StatusOr<ChildStory> story = supervisor_.Run(parts_.spawner, std::move(request), task);
  if (story.ok()) parts_.probe.AddChildProcesses(-1);
  LATHE_RETURN_IF_ERROR(fault::Hit("agent.reaped"));
  return story;
}

void AssignmentRun::AddOutputs(pb::Ended& ended, const std::stop_token& stop) {
  fault::Pass("agent.outputs");
  absl::StatusOr<v1::FileTree> outputs = parts_.transfers.UploadFolder(
      folders_.output(), assignment_.job_id(), assignment_.attempt(), stop);
  if (outputs.ok()) {
    *ended.mutable_outputs() = *std::move(outputs);
  } else if (const auto stopped = supervisor_.stop_reason(); stopped.has_value()) {
    ended = EndedByStop(origin_.source, *stopped);
  } else {
    ended = EndedByAgent(origin_.source, outputs.status());
  }
}

void AssignmentRun::OnStarted(pid_t pid) {
  // The child has its own copy; with ours open, peers of a dead rank 0 would wait for an answer.
  listener_socket_.Reset();
  parts_.probe.AddChildProcesses(1);
  fault::Pass("agent.spawned");
  pb::AssignmentUpdate update;
  update.mutable_started()->set_pid(pid);
  Push(std::move(update));
}

void AssignmentRun::OnMessage(const pb::ChildMessage& message) {
  pb::AssignmentUpdate update;
  switch (message.message_case()) {
    case pb::ChildMessage::kPhase:
      *update.mutable_phase() = message.phase();
      return Push(std::move(update));
    case pb::ChildMessage::kStep:
      *update.mutable_step() = message.step();
      update.mutable_step()->set_attempt(assignment_.attempt());
      parts_.probe.OnStep(message.step());
      return Push(std::move(update));
    case pb::ChildMessage::kEvaluation:
      *update.mutable_evaluation() = message.evaluation();
      return Push(std::move(update));
    case pb::ChildMessage::kProgress:
      update.set_progress(CleanLine(message.progress().substr(0, kMaxProgressBytes)));
      return Push(std::move(update));
    case pb::ChildMessage::kCheckpoint:
      if (checkpoints_ != nullptr) checkpoints_->Offer(message.checkpoint());
      return;
    case pb::ChildMessage::kText:
      if (chats_ != nullptr) chats_->OnText(message.text());
      return;
    case pb::ChildMessage::kDone:  // The supervisor keeps them.
    case pb::ChildMessage::kFailed:
    case pb::ChildMessage::MESSAGE_NOT_SET:  // Of a newer child: nothing to relay.
      return;
  }
}

void AssignmentRun::OnLine(std::string line) { parts_.logs.Add(origin_, std::move(line)); }

void AssignmentRun::OnAbort() {
  if (chats_ != nullptr) chats_->Abort();
}

void AssignmentRun::Push(pb::AssignmentUpdate update) {
  update.set_assignment_id(assignment_.id());
  update.set_job_id(assignment_.job_id());
  update.set_attempt(assignment_.attempt());
  parts_.outbox.Push(std::move(update));
}

}  // namespace lathe::agent
