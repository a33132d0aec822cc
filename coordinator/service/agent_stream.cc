#include "coordinator/service/agent_stream.h"

#include <utility>

#include "common/rpc/status.h"

namespace lathe {

AgentStream* AgentStream::Start(Coordinator& coordinator) {
  std::shared_ptr<AgentStream> stream(new AgentStream(coordinator));
  stream->self_ = stream;
  stream->StartRead(&stream->incoming_);
  return stream.get();
}

void AgentStream::Send(internal::v1::CoordinatorMessage message) {
  const MutexLock lock(mutex_);
  if (finished_) return;
  if (queue_.size() >= kMaxQueued) {
    return FinishLocked({grpc::StatusCode::RESOURCE_EXHAUSTED, "the agent takes no messages"});
  }
  queue_.push_back(std::move(message));
  if (!writing_) WriteLocked();
}

void AgentStream::WriteLocked() {
  writing_ = true;
  // The front stays where it is until OnWriteDone: a deque keeps its elements in place.
  StartWrite(&queue_.front());
}

void AgentStream::ReadNext() {
  const MutexLock lock(mutex_);
  if (!finished_) StartRead(&incoming_);
}

void AgentStream::Close(const absl::Status& status) {
  const MutexLock lock(mutex_);
  FinishLocked(ToGrpc(status));
}

void AgentStream::FinishLocked(const grpc::Status& status) {
  if (std::exchange(finished_, true)) return;
  Finish(status);
}

void AgentStream::OnReadDone(bool ok) {
  if (ok) return coordinator_.OnAgentMessage(shared_from_this(), std::move(incoming_));
  const MutexLock lock(mutex_);
  // Half-closed by the agent, or broken: OnCancel tells them apart.
  if (!finished_) said_goodbye_ = true;
  FinishLocked(grpc::Status::OK);
}

void AgentStream::OnWriteDone(bool ok) {
  const MutexLock lock(mutex_);
  queue_.pop_front();
  writing_ = false;
  if (!ok) return FinishLocked(grpc::Status::CANCELLED);
  if (!queue_.empty() && !finished_) WriteLocked();
}

void AgentStream::OnCancel() {
  const MutexLock lock(mutex_);
  cancelled_ = true;
  FinishLocked(grpc::Status::CANCELLED);
}

void AgentStream::OnDone() {
  bool goodbye = false;
  {
    const MutexLock lock(mutex_);
    goodbye = said_goodbye_ && !cancelled_;
  }
  coordinator_.OnAgentGone(shared_from_this(), goodbye);
  const std::shared_ptr<AgentStream> last = std::move(self_);
}

}  // namespace lathe
