#include "worker/agent/agent.h"

#include <algorithm>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "worker/agent/ending.h"
#include "worker/agent/gpus.h"

namespace lathe::agent {
namespace {

constexpr int kProtocol = 1;
constexpr size_t kMaxSlotlessRuns = 64;  // Assignments beside those that the slots bound.

std::chrono::nanoseconds Chrono(absl::Duration duration) {
  return absl::ToChronoNanoseconds(duration);
}

absl::Duration FromProto(const google::protobuf::Duration& duration, absl::Duration lowest,
                         absl::Duration fallback) {
  const absl::Duration value =
      absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
  return value <= absl::ZeroDuration() ? fallback : std::clamp(value, lowest, absl::Hours(24));
}

// Answers after which the same question gets the same answer.
bool IsRefusal(const absl::Status& status) {
  return absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status) ||
         absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status) ||
         absl::IsUnimplemented(status) || absl::IsAlreadyExists(status);
}

}  // namespace

Agent::Agent(AgentOptions options, const WorkerRoot& root, std::unique_ptr<BlobStore> cache,
             CoordinatorChannel& channel, AgentProbe& probe)
    : options_(std::move(options)),
      root_(root),
      channel_(channel),
      probe_(probe),
      cache_(std::move(cache), options_.max_cache_bytes),
      outbox_(probe),
      transfers_(channel, gate_, cache_, probe, options_.orphan_timeout),
      logs_(channel, gate_, probe),
      parts_{options_, root.assignments(), channel, spawner_, transfers_, outbox_, logs_, probe},
      orphan_timeout_(options_.orphan_timeout) {
  probe_.SetSlots(options_.slots, 0);
}

Agent::~Agent() = default;

bool Agent::stopping() {
  const MutexLock lock(mu_);
  return stopping_;
}

absl::Status Agent::Run() {
  int num_failures = 0;
  while (!stopping()) {
    const std::unique_ptr<Session> session = channel_.Connect();
    if (!Install(session.get())) {
      session->Close();
      session->Finish().IgnoreError();
      break;
    }
    const absl::Status status = ServeSession(*session);
    bool registered = false;
    {
      const MutexLock lock(mu_);
      session_ = nullptr;
      changed_.notify_all();
      registered = std::exchange(registered_, false);
      if (!ever_registered_ && IsRefusal(status)) return status;
    }
    num_failures = registered ? 1 : num_failures + 1;
    // One line per change, not per attempt.
    if (num_failures == 1 && !stopping()) {
      LogWarning(absl::StrCat("the coordinator is away: ", status.message()));
    }
    StopChildrenIfOrphaned();
    BackOff(num_failures);
  }
  return absl::OkStatus();
}

std::stop_source Agent::WriterStop() {
  const MutexLock lock(mu_);
  return writer_stop_;
}

bool Agent::draining() {
  const MutexLock lock(mu_);
  return draining_;
}

bool Agent::Install(Session* session) {
  const MutexLock lock(mu_);
  if (stopping_) return false;
  session_ = session;
  session_start_ = Clock::now();
  writer_stop_ = std::stop_source();
  return true;
}

absl::Status Agent::ServeSession(Session& session) {
  fault::Pass("agent.connect");
  outbox_.Rewind();
  std::stop_source writer_stop = WriterStop();
  std::jthread writer([&] { WriteLoop(session, writer_stop.get_token()); });
  std::jthread watchdog([&](const std::stop_token& stop) { WatchLease(session, stop); });
  pb::CoordinatorMessage message;
  while (session.Read(message)) {
    {
      const MutexLock lock(mu_);
      last_heard_ = Clock::now();
    }
    Handle(message);
  }
  gate_.SetOpen(false);
  probe_.SetConnected(false);
  writer_stop.request_stop();
  watchdog.request_stop();
  session.Close();
  writer.join();
  watchdog.join();
  return session.Finish();
}

pb::AgentMessage Agent::MakeRegister() {
  std::set<std::string> running = outbox_.EndedAssignments();
  {
    const MutexLock lock(mu_);
    for (const auto& [id, run] : runs_) running.insert(id);
  }
  // Those that ended in between: their `ended` comes after this message.
  running.merge(outbox_.EndedAssignments());
  pb::AgentMessage message;
  pb::Register& hello = *message.mutable_register_();
  hello.set_min_protocol(kProtocol);
  hello.set_max_protocol(kProtocol);
  hello.set_build(options_.build);
  hello.set_worker_id(root_.worker_id());
  hello.set_name(options_.name);
  hello.set_slot_kind(options_.gpus.empty() ? "cpu" : "cuda");
  hello.set_slots(options_.slots);
  hello.set_threads_per_slot(options_.threads_per_slot);
  hello.set_memory_bytes(options_.memory_bytes);
  hello.set_metrics_address(options_.metrics_address);
  for (const std::string& id : running) hello.add_running_assignments(id);
  return message;
}

void Agent::WriteLoop(Session& session, const std::stop_token& stop) {
  WriteUpdates(session, stop);
  bool leaving = false;
  {
    const MutexLock lock(mu_);
    leaving = leaving_;
  }
  if (leaving) session.Leave();
}

void Agent::WriteUpdates(Session& session, const std::stop_token& stop) {
  if (!session.Write(MakeRegister())) return;
  absl::Duration interval;
  {
    MutexLock lock(mu_);
    const auto registered = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return registered_; };
    if (!changed_.wait(lock, stop, registered)) return;
    interval = heartbeat_interval_;
  }
  Clock::time_point next_heartbeat = Clock::now();
  bool told = false;  // That this worker is draining.
  while (!stop.stop_requested()) {
    const absl::Duration pause = absl::FromChrono(next_heartbeat - Clock::now());
    bool urgent = false;
    if (outbox_.WaitForWork(std::max(pause, absl::ZeroDuration()), stop)) {
      if (std::optional<pb::AssignmentUpdate> update = outbox_.Next()) {
        // Its answer says that the end has arrived.
        urgent = update->has_ended();
        if (urgent && !fault::Hit("agent.ended").ok()) return;
        if (!fault::Hit("agent.update").ok()) return;
        pb::AgentMessage message;
        *message.mutable_update() = *std::move(update);
        if (!session.Write(message)) return;
      }
    }
    ReapFinished();
    const bool drains = draining();
    if (!urgent && drains == told && Clock::now() < next_heartbeat) continue;
    pb::AgentMessage message;
    message.mutable_heartbeat()->set_sequence(outbox_.NextHeartbeat());
    message.mutable_heartbeat()->set_draining(drains);
    told = drains;
    if (!fault::Hit("agent.heartbeat").ok()) return;
    if (!session.Write(message)) return;
    probe_.OnHeartbeat();
    next_heartbeat = Clock::now() + std::chrono::duration_cast<Clock::duration>(Chrono(interval));
  }
}

// At two thirds of the lease the coordinator may be about to give our work to others: from then on
// nothing is published until a new session.
void Agent::WatchLease(Session& session, const std::stop_token& stop) {
  {
    MutexLock lock(mu_);
    while (!stop.stop_requested()) {
      const bool registered = registered_;
      const absl::Duration patience = registered ? lease_ * 2 / 3 : options_.handshake_timeout;
      const Clock::time_point heard = std::max(session_start_, last_heard_);
      const absl::Duration left = patience - absl::FromChrono(Clock::now() - heard);
      if (left <= absl::ZeroDuration()) break;
      changed_.wait_for(lock, stop, Chrono(left),
                        [this, registered]()
                            ABSL_NO_THREAD_SAFETY_ANALYSIS { return registered_ != registered; });
    }
  }
  if (!stop.stop_requested()) session.Close();
}

void Agent::Handle(const pb::CoordinatorMessage& message) {
  switch (message.message_case()) {
    case pb::CoordinatorMessage::kRegistered:
      return HandleRegistered(message.registered());
    case pb::CoordinatorMessage::kHeartbeat:
      return outbox_.OnHeartbeatAnswer(message.heartbeat().sequence());
    case pb::CoordinatorMessage::kAssignment:
      fault::Pass("agent.assignment");
      return HandleAssignment(message.assignment());
    case pb::CoordinatorMessage::kCancel:
      fault::Pass("agent.cancel");
      return HandleCancel(message.cancel());
    default:
      break;
  }
  const MutexLock lock(mu_);
  if (message.has_pause()) {
    AssignmentRun* run = FindLocked(message.pause().assignment_id());
    if (run != nullptr) run->Pause();
  } else if (message.has_rendezvous()) {
    AssignmentRun* run = FindLocked(message.rendezvous().assignment_id());
    if (run != nullptr) run->SetRendezvous(message.rendezvous().rendezvous());
  } else if (message.has_chat()) {
    AssignmentRun* run = FindLocked(message.chat().assignment_id());
    if (run != nullptr) run->StartChat(message.chat());
  } else if (message.has_chat_cancel()) {
    AssignmentRun* run = FindLocked(message.chat_cancel().assignment_id());
    if (run != nullptr) run->CancelChat(message.chat_cancel().chat_id());
  }
}

void Agent::HandleRegistered(const pb::Registered& registered) {
  {
    const MutexLock lock(mu_);
    lease_ = FromProto(registered.lease(), absl::Milliseconds(100), absl::Seconds(30));
    heartbeat_interval_ =
        FromProto(registered.heartbeat_interval(), absl::Milliseconds(10), lease_ / 3);
    orphan_timeout_ =
        FromProto(registered.orphan_timeout(), absl::Milliseconds(10), options_.orphan_timeout);
    registered_ = true;
    ever_registered_ = true;
  }
  changed_.notify_all();
  fault::Pass("agent.registered");
  gate_.SetOpen(true);
  probe_.SetConnected(true);
  probe_.OnConnect();
  LogInfo(absl::StrCat("registered with the coordinator as ", options_.name));
}

AssignmentRun* Agent::FindLocked(const std::string& id) {
  const auto found = runs_.find(id);
  return found == runs_.end() ? nullptr : found->second.get();
}

int Agent::BusySlotsLocked() const {
  int busy = 0;
  for (const auto& [id, run] : runs_) busy += run->slots();
  return busy;
}

// REQUIRES: so many slots are free.
std::vector<int> Agent::GpusLocked(int slots) const {
  std::vector<int> taken;
  for (const auto& [id, run] : runs_) {
    const std::vector<int> gpus = run->gpus();
    taken.insert(taken.end(), gpus.begin(), gpus.end());
  }
  return TakeGpus(options_.gpus, taken, slots);
}

absl::Status Agent::AdmitLocked(const pb::Assignment& assignment) {
  if (draining_) return absl::UnavailableError("this worker is being stopped");
  const int free = options_.slots - BusySlotsLocked();
  if (assignment.slots() > free || runs_.size() >= kMaxSlotlessRuns + 1024) {
    return absl::ResourceExhaustedError(absl::StrCat("needs ", assignment.slots(), " slots; ", free,
                                                     " of ", options_.slots, " are free"));
  }
  return absl::OkStatus();
}

void Agent::HandleAssignment(const pb::Assignment& assignment) {
  ReapFinished();
  absl::Status status;
  {
    const MutexLock lock(mu_);
    const bool known = FindLocked(assignment.id()) != nullptr;
    if (known || outbox_.EndedAssignments().contains(assignment.id())) return;  // Sent again.
    status = AdmitLocked(assignment);
    if (status.ok()) {
      runs_[assignment.id()] =
          std::make_unique<AssignmentRun>(assignment, parts_, GpusLocked(assignment.slots()));
      probe_.SetSlots(options_.slots, BusySlotsLocked());
    }
  }
  if (!status.ok()) Refuse(assignment, status);
}

void Agent::Refuse(const pb::Assignment& assignment, const absl::Status& status) {
  pb::AssignmentUpdate update;
  update.set_assignment_id(assignment.id());
  update.set_job_id(assignment.job_id());
  update.set_attempt(assignment.attempt());
  *update.mutable_ended() = EndedByAgent(SourceLabel(assignment.task(), options_.name), status);
  outbox_.Push(std::move(update));
}

void Agent::HandleCancel(const pb::CancelAssignment& cancel) {
  const std::string& id = cancel.assignment_id();
  {
    const MutexLock lock(mu_);
    if (AssignmentRun* run = FindLocked(id); run != nullptr && !run->finished()) {
      if (cancel.keep_checkpoint()) run->KeepCheckpoint();
      return run->Stop({"cancelled", "cancelled", cancel.diagnose()});
    }
  }
  if (outbox_.EndedAssignments().contains(id)) return;  // On its way.
  pb::AssignmentUpdate update;
  update.set_assignment_id(id);
  *update.mutable_ended() =
      EndedByStop(options_.name, {"cancelled", "the assignment does not run here"});
  outbox_.Push(std::move(update));
}

void Agent::ReapFinished() {
  std::vector<std::unique_ptr<AssignmentRun>> finished;  // Joined after the lock.
  const MutexLock lock(mu_);
  for (auto it = runs_.begin(); it != runs_.end();) {
    if (!it->second->finished()) {
      ++it;
      continue;
    }
    finished.push_back(std::move(it->second));
    it = runs_.erase(it);
  }
  if (draining_) changed_.notify_all();  // Something may have ended.
  probe_.SetSlots(options_.slots, BusySlotsLocked());
}

void Agent::StopChildren(const StopReason& reason) {
  const MutexLock lock(mu_);
  for (const auto& [id, run] : runs_) run->Stop(reason);
}

void Agent::StopChildrenIfOrphaned() {
  absl::Duration timeout;
  {
    const MutexLock lock(mu_);
    timeout = orphan_timeout_;
    if (runs_.empty() || absl::FromChrono(Clock::now() - last_heard_) < timeout) return;
  }
  StopChildren(
      {"machine", absl::StrCat("stopped: no coordinator for ", absl::FormatDuration(timeout))});
}

void Agent::BackOff(int num_failures) {
  const absl::Duration full = std::min(
      options_.max_backoff,
      options_.min_backoff * static_cast<double>(int64_t{1} << std::min(num_failures, 20)));
  static thread_local std::minstd_rand random{std::random_device{}()};
  const double share = std::uniform_real_distribution<double>(0.5, 1.0)(random);
  MutexLock lock(mu_);
  changed_.wait_for(lock, Chrono(full * share),
                    [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_; });
}

bool Agent::HasJobsLocked() const {
  return std::any_of(runs_.begin(), runs_.end(),
                     [](const auto& entry) { return entry.second->serves_job(); });
}

// The coordinator asks every rank of a training to end, also those on other workers. One that is
// away cannot: nothing is waited for then.
void Agent::Drain() {
  MutexLock lock(mu_);
  if (std::exchange(draining_, true)) return;
  outbox_.Wake();
  changed_.wait_for(lock, Chrono(options_.drain_timeout), [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return !registered_ || !HasJobsLocked();
  });
}

void Agent::Stop() {
  Drain();
  std::map<std::string, std::unique_ptr<AssignmentRun>> runs;
  {
    const MutexLock lock(mu_);
    stopping_ = true;
    changed_.notify_all();
  }
  StopChildren({"machine", "this worker is being stopped"});
  {
    const MutexLock lock(mu_);
    runs.swap(runs_);
  }
  runs.clear();
  if (gate_.Wait(absl::ZeroDuration(), {})) outbox_.WaitUntilEndedAreKnown(options_.flush_timeout);
  LeaveSession();
}

void Agent::LeaveSession() {
  {
    const MutexLock lock(mu_);
    leaving_ = true;
  }
  WriterStop().request_stop();
  MutexLock lock(mu_);
  changed_.wait_for(lock, Chrono(options_.flush_timeout),
                    [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return session_ == nullptr; });
  // Does not block. Under the lock, because Run destroys the session after it has taken it back.
  if (session_ != nullptr) session_->Close();
}

}  // namespace lathe::agent
