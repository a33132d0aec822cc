#pragma once

#include <deque>
#include <memory>

#include "common/base/mutex.h"
#include "coordinator/service/coordinator.h"
#include "grpcpp/support/server_callback.h"

namespace lathe {

// The connection to one agent. Reads one message at a time: the next one after the last was dealt
// with. Writes from a bounded queue; an agent that does not take its messages is cut off. Keeps
// itself alive until gRPC is done with it. Thread-safe.
class AgentStream final
    : public grpc::ServerBidiReactor<internal::v1::AgentMessage, internal::v1::CoordinatorMessage>,
      public AgentLink,
      public std::enable_shared_from_this<AgentStream> {
 public:
  static constexpr size_t kMaxQueued = 1024;

  static AgentStream* Start(Coordinator& coordinator);

  void Send(internal::v1::CoordinatorMessage message) override;
  void ReadNext() override;
  void Close(const absl::Status& status) override;

 private:
  explicit AgentStream(Coordinator& coordinator) : coordinator_(coordinator) {}

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void WriteLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishLocked(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Coordinator& coordinator_;
  internal::v1::AgentMessage incoming_;  // Of gRPC while it reads, else of OnReadDone.
  std::shared_ptr<AgentStream> self_;
  Mutex mutex_;
  std::deque<internal::v1::CoordinatorMessage> queue_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;  // The front of the queue is on its way.
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool said_goodbye_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace lathe
