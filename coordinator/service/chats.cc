#include "coordinator/service/chats.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/rpc/status.h"

namespace lathe {

constexpr size_t kMaxChats = 64;

bool ChatSession::Push(v1::ChatResponse response) {
  MutexLock lock(mutex_);
  room_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return closed_ || end_.has_value() || queue_.size() < kMaxQueued;
  });
  if (closed_ || end_.has_value()) return false;
  queue_.push_back(std::move(response));
  return true;
}

void ChatSession::End(absl::Status status) {
  const MutexLock lock(mutex_);
  if (!end_.has_value()) end_ = std::move(status);
  room_.notify_all();
}

void ChatSession::Close() {
  const MutexLock lock(mutex_);
  closed_ = true;
  room_.notify_all();
}

Pulled ChatSession::Pull(v1::ChatResponse& response, grpc::Status& status) {
  const MutexLock lock(mutex_);
  if (!queue_.empty()) {
    response = std::move(queue_.front());
    queue_.pop_front();
    room_.notify_all();
    return Pulled::kMessage;
  }
  if (!end_.has_value()) return Pulled::kNothingYet;
  status = ToGrpc(*end_);
  return Pulled::kEnd;
}

absl::Status Chats::Add(const std::string& id, std::shared_ptr<ChatSession> session) {
  const MutexLock lock(mutex_);
  if (sessions_.size() >= kMaxChats) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", sessions_.size(), " chats; at most ", kMaxChats, " at once"));
  }
  sessions_[id] = std::move(session);
  return absl::OkStatus();
}

std::shared_ptr<ChatSession> Chats::Find(const std::string& id) const {
  const MutexLock lock(mutex_);
  const auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : found->second;
}

void Chats::Remove(const std::string& id) {
  const MutexLock lock(mutex_);
  sessions_.erase(id);
}

}  // namespace lathe
