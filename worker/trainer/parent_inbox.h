#pragma once

#include <condition_variable>
#include <deque>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/wire/child_channel.h"
#include "lathe/internal/v1/child.pb.h"

namespace lathe {

// What the agent sends after the task, received by a thread of its own. Thread-safe.
class ParentInbox {
 public:
  // What the end of the channel means: a training has nobody to work for any more and the process
  // ends at once, even within a collective; a server answers what it has and ends by itself.
  enum class OnClose { kExit, kDrain };

  // `channel` outlives the inbox.
  ParentInbox(ChildChannel& channel, OnClose on_close);
  ~ParentInbox();

  // Requested by a Cancel message.
  std::stop_token cancel_token() const { return cancel_.get_token(); }
  // Requested by a Pause message.
  std::stop_token pause_token() const { return pause_.get_token(); }

  // Blocks. Cancelled: a Cancel message came first.
  absl::StatusOr<internal::v1::Rendezvous> WaitForRendezvous();

  // Blocks for the next question; none: the channel is closed, or a Cancel message came. At most
  // kMaxWaiting wait; what comes on top is answered by nobody and dropped with a log line.
  std::optional<internal::v1::Generate> NextQuestion();
  // The next question if one is there.
  std::optional<internal::v1::Generate> TryNextQuestion();
  // The answer to `request_id` has ended.
  void Answered(const std::string& request_id);
  // Whether the answer to `request_id` is no longer wanted.
  bool IsCancelled(const std::string& request_id) const;

 private:
  static constexpr size_t kMaxWaiting = 256;

  void Receive();
  void Dispatch(internal::v1::ParentMessage message);
  std::optional<internal::v1::Generate> TakeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool EndedLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return closed_ || cancel_.stop_requested();
  }

  ChildChannel& channel_;
  const OnClose on_close_;
  std::stop_source cancel_;
  std::stop_source pause_;

  mutable Mutex mu_;
  std::condition_variable_any changed_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<internal::v1::Rendezvous> rendezvous_ ABSL_GUARDED_BY(mu_);
  std::deque<internal::v1::Generate> questions_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> cancelled_ ABSL_GUARDED_BY(mu_);  // Of those that wait or run.
  std::set<std::string> answering_ ABSL_GUARDED_BY(mu_);  // Taken and not answered.

  std::jthread reader_;
};

}  // namespace lathe
