#include "worker/agent/outbox.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"

namespace lathe::agent {
namespace {

using Update = pb::AssignmentUpdate;

bool MayReplace(const Update& update) { return update.has_phase() || update.has_progress(); }
bool MayDrop(const Update& update) { return MayReplace(update) || update.has_step(); }

}  // namespace

void Outbox::Push(Update update) {
  const MutexLock lock(mu_);
  if (MayReplace(update) && ReplaceWaitingLocked(update)) return;
  if (entries_.size() >= kMaxUpdates) MakeRoomLocked();
  entries_.push_back({std::move(update), 0});
  changed_.notify_all();
}

bool Outbox::ReplaceWaitingLocked(const Update& update) {
  for (size_t i = entries_.size(); i > num_sent_; --i) {
    Update& waiting = entries_[i - 1].update;
    if (waiting.assignment_id() != update.assignment_id()) continue;
    if (waiting.update_case() == update.update_case()) {
      waiting = update;
      return true;
    }
    if (!MayDrop(waiting)) return false;  // Keeps the order to what the state depends on.
  }
  return false;
}

void Outbox::MakeRoomLocked() {
  const auto oldest = std::find_if(entries_.begin(), entries_.end(),
                                   [](const Entry& entry) { return MayDrop(entry.update); });
  if (oldest == entries_.end()) return;  // Only such that the number of assignments bounds.
  if (static_cast<size_t>(oldest - entries_.begin()) < num_sent_) --num_sent_;
  entries_.erase(oldest);
  probe_.OnUpdatesDropped(1);
}

void Outbox::Wake() {
  const MutexLock lock(mu_);
  woken_ = true;
  changed_.notify_all();
}

bool Outbox::WaitForWork(absl::Duration timeout, const std::stop_token& stop) {
  MutexLock lock(mu_);
  const bool works = changed_.wait_for(
      lock, stop, absl::ToChronoNanoseconds(timeout),
      [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return woken_ || num_sent_ < entries_.size(); });
  woken_ = false;
  return works;
}

std::optional<Update> Outbox::Next() {
  const MutexLock lock(mu_);
  if (num_sent_ == entries_.size()) return std::nullopt;
  return entries_[num_sent_++].update;
}

int64_t Outbox::NextHeartbeat() {
  const MutexLock lock(mu_);
  ++last_heartbeat_;
  for (size_t i = num_sent_; i > 0 && entries_[i - 1].heartbeat == 0; --i) {
    entries_[i - 1].heartbeat = last_heartbeat_;
  }
  return last_heartbeat_;
}

void Outbox::OnHeartbeatAnswer(int64_t sequence) {
  const MutexLock lock(mu_);
  while (num_sent_ > 0 && entries_.front().heartbeat != 0 &&
         entries_.front().heartbeat <= sequence) {
    entries_.pop_front();
    --num_sent_;
  }
  changed_.notify_all();
}

void Outbox::Rewind() {
  const MutexLock lock(mu_);
  num_sent_ = 0;
  for (Entry& entry : entries_) entry.heartbeat = 0;
  changed_.notify_all();
}

std::set<std::string> Outbox::EndedAssignments() const {
  const MutexLock lock(mu_);
  std::set<std::string> ids;
  for (const Entry& entry : entries_) {
    if (entry.update.has_ended()) ids.insert(entry.update.assignment_id());
  }
  return ids;
}

bool Outbox::WaitUntilEndedAreKnown(absl::Duration timeout) {
  MutexLock lock(mu_);
  return changed_.wait_for(
      lock, absl::ToChronoNanoseconds(timeout), [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
        return std::none_of(entries_.begin(), entries_.end(),
                            [](const Entry& entry) { return entry.update.has_ended(); });
      });
}

size_t Outbox::size() const {
  const MutexLock lock(mu_);
  return entries_.size();
}

}  // namespace lathe::agent
