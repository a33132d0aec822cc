#include "tests/coordinator/core/simulation/sim_worker.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace lathe::simulation {
namespace {

constexpr absl::Duration kHeartbeatInterval = absl::Seconds(4);
constexpr absl::Duration kDrainTime = absl::Seconds(20);

EndCause AnyCause(Timeline& time) {
  const int64_t dice = time.Below(10);
  return dice == 0 ? EndCause::kUser : dice == 1 ? EndCause::kBug : EndCause::kMachine;
}

}  // namespace

struct SimWorker::Process final : Member {
  Process(SimWorker& its_worker, const ToWorker& start)
      : worker(its_worker), assignment(start.command.assignment), resume(start.resume) {}

  void OnCheckpoint(int64_t step) override {
    const bool damaged = worker.time_.Chance(worker.options_.damaged_checkpoint);
    ToCoordinator message = Update(ToCoordinator::Kind::kCheckpoint);
    message.checkpoint = {step, {{"state", {damaged ? "damaged" : "whole", 1}}}};
    worker.Say(std::move(message));
  }
  void OnEnd(Ended ended) override {
    worker.stats_.unusable_checkpoints += ended.cause == EndCause::kCheckpoint ? 1 : 0;
    worker.EndProcess(assignment.id, std::move(ended));
  }
  bool Usable() const { return resume.files.empty() || resume.files[0].blob.sha256 != "damaged"; }
  ToCoordinator Update(ToCoordinator::Kind kind) const {
    return {.kind = kind,
            .assignment = assignment.id,
            .owner = assignment.owner,
            .attempt = assignment.attempt};
  }

  SimWorker& worker;
  const Assignment assignment;
  const SavedCheckpoint resume;
  bool joined = false;
  bool told_to_end = false;
};

SimWorker::SimWorker(int index, int slots, double drift, Timeline& time,
                     SimCoordinator& coordinator, Gangs& gangs, Verdict& verdict, SimStats& stats,
                     const SimOptions& options)
    : info_{.id = WorkerId(absl::StrCat("wrk-", index)),
            .name = absl::StrCat("w", index),
            .slots = slots},
      index_(index),
      drift_(drift),
      time_(time),
      coordinator_(coordinator),
      gangs_(gangs),
      verdict_(verdict),
      stats_(stats),
      options_(options) {}

void SimWorker::Dial() {
  if (!running_ || link_ != nullptr) return;
  link_ = coordinator_.Dial(index_, this);
  if (link_ == nullptr) {
    time_.After(time_.Between(absl::Milliseconds(200), absl::Seconds(4)), [this, life = life_] {
      if (life == life_) Dial();
    });
    return;
  }
  ToCoordinator hello{.kind = ToCoordinator::Kind::kRegister, .info = info_};
  for (const auto& [id, process] : processes_) hello.running.push_back(id);
  for (const Kept& kept : outbox_) {
    if (kept.message.kind == ToCoordinator::Kind::kEnded) {
      hello.running.push_back(kept.message.assignment);
    }
  }
  coordinator_.Send(link_, std::move(hello));
}

void SimWorker::OnMessage(const LinkPtr& link, const ToWorker& message) {
  if (link != link_) return;
  switch (message.kind) {
    case ToWorker::Kind::kRegistered:
      return BeginSession();
    case ToWorker::Kind::kAnswer:
      while (!outbox_.empty() && outbox_.front().heartbeat != 0 &&
             outbox_.front().heartbeat <= message.sequence) {
        outbox_.pop_front();
      }
      return;
    case ToWorker::Kind::kCommand:
      return OnCommand(message);
    case ToWorker::Kind::kClose:
      link->broken = true;
      return OnLinkGone(link);
  }
}

void SimWorker::OnLinkGone(const LinkPtr& link) {
  if (link != link_) return;
  link_ = nullptr;
  registered_ = false;
  time_.After(time_.Between(absl::Milliseconds(200), absl::Seconds(4)), [this, life = life_] {
    if (life == life_) Dial();
  });
}

void SimWorker::BeginSession() {
  registered_ = true;
  for (Kept& kept : outbox_) {
    stats_.repeated_updates += kept.sent ? 1 : 0;
    kept.sent = true;
    kept.heartbeat = 0;
    coordinator_.Send(link_, kept.message);
  }
  Beat(life_, link_);
}

void SimWorker::Beat(int64_t life, const LinkPtr& link) {
  if (life != life_ || link != link_) return;
  const int64_t sequence = ++last_heartbeat_;
  for (Kept& kept : outbox_) {
    if (kept.heartbeat == 0) kept.heartbeat = sequence;
  }
  coordinator_.Send(
      link_,
      {.kind = ToCoordinator::Kind::kHeartbeat, .sequence = sequence, .draining = draining_});
  time_.After(kHeartbeatInterval * drift_, [this, life, link] { Beat(life, link); });
}

void SimWorker::Say(ToCoordinator message) {
  outbox_.push_back({std::move(message), 0, registered_});
  if (registered_) coordinator_.Send(link_, outbox_.back().message);
}

bool SimWorker::EndIsKept(const AssignmentId& id) const {
  return std::any_of(outbox_.begin(), outbox_.end(), [&](const Kept& kept) {
    return kept.message.kind == ToCoordinator::Kind::kEnded && kept.message.assignment == id;
  });
}

void SimWorker::OnCommand(const ToWorker& message) {
  const Assignment& assignment = message.command.assignment;
  if (message.command.kind == Command::Kind::kStart) return StartProcess(message);
  if (message.command.kind == Command::Kind::kCancel) return CancelProcess(assignment);
  const auto found = processes_.find(assignment.id);
  if (found == processes_.end()) return;
  Process& process = *found->second;
  if (message.command.kind == Command::Kind::kPause) {
    gangs_.Pause(process.assignment);
  } else if (!std::exchange(process.joined, true)) {
    gangs_.Join(process.assignment, process.resume.step, process.Usable(), found->second);
  }
}

void SimWorker::StartProcess(const ToWorker& message) {
  const Assignment& assignment = message.command.assignment;
  if (processes_.contains(assignment.id) || EndIsKept(assignment.id)) return;  // Sent again.
  int taken = assignment.slots;
  for (const auto& [id, process] : processes_) taken += process->assignment.slots;
  if (taken > info_.slots) {
    verdict_.Break(absl::StrCat(info_.name, ": ", assignment.owner, " attempt ", assignment.attempt,
                                " is given a slot that is taken"));
  }
  const auto process = std::make_shared<Process>(*this, message);
  processes_[assignment.id] = process;
  Plan(process);
}

// What becomes of it if nobody interferes.
void SimWorker::Plan(const std::shared_ptr<Process>& process) {
  const std::weak_ptr<Process> weak = process;
  const auto later = [&](absl::Duration most, std::function<void(Process&)> what) {
    time_.After(time_.Between(absl::Milliseconds(20), most), [weak, what = std::move(what)] {
      if (const auto alive = weak.lock()) what(*alive);
    });
  };
  if (time_.Chance(options_.process_fails)) {
    later(absl::Seconds(10),
          [this](Process& it) { it.OnEnd(Gangs::Failure(AnyCause(time_), "fails")); });
  }
  if (process->assignment.role != kStageTrain) {
    return later(absl::Seconds(6), [](Process& it) {
      it.OnEnd({.ok = true, .outputs = {{"train.shard", {"aa", 1}}}});
    });
  }
  if (process->assignment.rank != 0) return;
  later(absl::Milliseconds(500), [this, weak](Process& it) {
    Say(it.Update(ToCoordinator::Kind::kRendezvous));
    Say(it.Update(ToCoordinator::Kind::kEvaluation));
    it.joined = true;
    gangs_.Join(it.assignment, it.resume.step, it.Usable(), weak);
  });
}

void SimWorker::CancelProcess(const Assignment& assignment) {
  const auto found = processes_.find(assignment.id);
  if (found == processes_.end()) {
    if (EndIsKept(assignment.id)) return;  // On its way.
    // Without owner and attempt: the order was all that this worker knows of it.
    return Say({.kind = ToCoordinator::Kind::kEnded,
                .assignment = assignment.id,
                .ended = Gangs::Failure(EndCause::kCancelled, "does not run here")});
  }
  if (std::exchange(found->second->told_to_end, true)) return;
  const bool hangs = time_.Chance(options_.process_hangs);
  const std::weak_ptr<Process> weak = found->second;
  time_.After(hangs ? absl::Seconds(90) : time_.Between(absl::Milliseconds(5), absl::Seconds(2)),
              [weak] {
                const auto alive = weak.lock();
                if (alive) alive->OnEnd(Gangs::Failure(EndCause::kCancelled, "cancelled"));
              });
}

void SimWorker::EndProcess(const AssignmentId& id, Ended ended) {
  const auto found = processes_.find(id);
  if (found == processes_.end()) return;
  const std::shared_ptr<Process> process = found->second;
  processes_.erase(found);
  gangs_.Leave(process->assignment);
  ToCoordinator message = process->Update(ToCoordinator::Kind::kEnded);
  message.ended = std::move(ended);
  Say(std::move(message));
}

void SimWorker::BreakLink() {
  if (link_ != nullptr) coordinator_.Break(link_);
}

void SimWorker::KillOne() {
  if (processes_.empty()) return;
  auto victim = processes_.begin();
  std::advance(victim, time_.Below(static_cast<int64_t>(processes_.size())));
  EndProcess(victim->first, Gangs::Failure(EndCause::kMachine, "killed by signal 9"));
}

void SimWorker::Die() {
  if (!running_) return;
  ++stats_.worker_deaths;
  StartAgain(time_.Between(absl::Milliseconds(500), absl::Seconds(40)));
}

void SimWorker::StartAgain(absl::Duration later) {
  ++life_;
  running_ = false;
  BreakLink();
  link_ = nullptr;
  registered_ = false;
  draining_ = false;
  outbox_.clear();
  for (const auto& [id, process] : std::exchange(processes_, {})) gangs_.Leave(process->assignment);
  time_.After(later, [this] {
    running_ = true;
    Dial();
  });
}

void SimWorker::Drain() {
  if (!running_ || draining_) return;
  ++stats_.drains;
  draining_ = true;
  if (registered_) Beat(life_, link_);
  time_.After(kDrainTime, [this, life = life_] { Leave(life); });
}

void SimWorker::Leave(int64_t life) {
  if (life != life_) return;
  std::vector<AssignmentId> left;
  for (const auto& [id, process] : processes_) left.push_back(id);
  for (const AssignmentId& id : left) {
    EndProcess(id, Gangs::Failure(EndCause::kCancelled, "the worker stops"));
  }
  if (registered_) {
    coordinator_.Send(link_, {.kind = ToCoordinator::Kind::kGoodbye});
    link_ = nullptr;  // Not broken: what was sent arrives.
  }
  StartAgain(time_.Between(absl::Seconds(1), absl::Seconds(10)));
}

}  // namespace lathe::simulation
