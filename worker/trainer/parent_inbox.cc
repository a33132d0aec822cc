#include "worker/trainer/parent_inbox.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/exit_codes.h"
#include "common/base/log.h"

namespace lathe {

using internal::v1::ParentMessage;

ParentInbox::ParentInbox(ChildChannel& channel, OnClose on_close)
    : channel_(channel), on_close_(on_close), reader_([this] { Receive(); }) {}

ParentInbox::~ParentInbox() {
  {
    const MutexLock lock(mu_);
    closed_ = true;
  }
  // Wakes the reader; our own direction stays open for the last message.
  shutdown(channel_.fd(), SHUT_RD);
}

absl::StatusOr<internal::v1::Rendezvous> ParentInbox::WaitForRendezvous() {
  MutexLock lock(mu_);
  changed_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return rendezvous_.has_value() || EndedLocked();
  });
  if (!rendezvous_) return absl::CancelledError("cancelled before the ranks met");
  return *rendezvous_;
}

std::optional<internal::v1::Generate> ParentInbox::NextQuestion() {
  MutexLock lock(mu_);
  changed_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return !questions_.empty() || EndedLocked();
  });
  return TakeLocked();
}

std::optional<internal::v1::Generate> ParentInbox::TryNextQuestion() {
  const MutexLock lock(mu_);
  return TakeLocked();
}

std::optional<internal::v1::Generate> ParentInbox::TakeLocked() {
  if (EndedLocked() || questions_.empty()) return std::nullopt;
  internal::v1::Generate question = std::move(questions_.front());
  questions_.pop_front();
  answering_.insert(question.request_id());
  return question;
}

void ParentInbox::Answered(const std::string& request_id) {
  const MutexLock lock(mu_);
  answering_.erase(request_id);
  cancelled_.erase(request_id);
}

bool ParentInbox::IsCancelled(const std::string& request_id) const {
  const MutexLock lock(mu_);
  return EndedLocked() || cancelled_.contains(request_id);
}

void ParentInbox::Receive() {
  ParentMessage message;
  absl::Status status = channel_.Receive(message);
  for (; status.ok(); status = channel_.Receive(message)) {
    Dispatch(std::move(message));
    message.Clear();
  }
  const MutexLock lock(mu_);
  if (closed_) return;  // By ourselves.
  if (on_close_ == OnClose::kExit) {
    LogError(absl::StrCat("the agent is gone: ", status.message()));
    _exit(kExitPeerLost);
  }
  closed_ = true;
  changed_.notify_all();
}

void ParentInbox::Dispatch(ParentMessage message) {
  const MutexLock lock(mu_);
  if (message.has_rendezvous()) {
    rendezvous_ = std::move(*message.mutable_rendezvous());
  } else if (message.has_cancel()) {
    cancel_.request_stop();
  } else if (message.has_pause()) {
    pause_.request_stop();
  } else if (message.has_generate()) {
    if (questions_.size() < kMaxWaiting) {
      questions_.push_back(std::move(*message.mutable_generate()));
    } else {
      LogWarning("more than 256 questions wait; one is dropped");
    }
  } else if (message.has_cancel_generate()) {
    const std::string& id = message.cancel_generate().request_id();
    const bool waits = std::any_of(questions_.begin(), questions_.end(),
                                   [&](const auto& q) { return q.request_id() == id; });
    if (waits || answering_.contains(id)) cancelled_.insert(id);
  } else {
    LogWarning("the agent sent a message that does not belong here; it is ignored");
  }
  changed_.notify_all();
}

}  // namespace lathe
