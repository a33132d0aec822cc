#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "coordinator/service/pull_stream.h"
#include "lathe/v1/inference.pb.h"

namespace lathe {

// One answer on its way from a worker to a client. Thread-safe.
class ChatSession {
 public:
  static constexpr size_t kMaxQueued = 256;

  // Waits while the queue is full: a slow client slows down its worker's stream. False: nobody
  // listens any more.
  bool Push(v1::ChatResponse response);
  // No text follows. The first end counts.
  void End(absl::Status status);
  // Nobody listens any more.
  void Close();

  Pulled Pull(v1::ChatResponse& response, grpc::Status& status);

 private:
  Mutex mutex_;
  std::condition_variable_any room_;
  std::deque<v1::ChatResponse> queue_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

// The chats in progress, by id. Thread-safe.
class Chats {
 public:
  // ResourceExhausted: too many at once.
  absl::Status Add(const std::string& id, std::shared_ptr<ChatSession> session);
  std::shared_ptr<ChatSession> Find(const std::string& id) const;  // Null if there is none.
  void Remove(const std::string& id);

  static std::string HubKey(const std::string& id) { return "chat " + id; }

 private:
  mutable Mutex mutex_;
  // Shared with the client's stream and the worker's.
  std::map<std::string, std::shared_ptr<ChatSession>> sessions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lathe
