#pragma once

#include <chrono>
#include <deque>
#include <optional>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/file.h"
#include "common/base/mutex.h"
#include "common/wire/child_channel.h"
#include "lathe/internal/v1/child.pb.h"
#include "worker/agent/ending.h"
#include "worker/agent/spawner.h"

namespace lathe::agent {

// What a child says while it lives. OnMessage comes from one thread, OnLine from another.
class ChildListener {
 public:
  virtual ~ChildListener() = default;
  // Everything but done and failed.
  virtual void OnMessage(const pb::ChildMessage& message) = 0;
  // One clean line of its output.
  virtual void OnLine(std::string line) = 0;
  virtual void OnStarted(pid_t pid) = 0;
  // The child has ended; an OnMessage that blocks must return.
  virtual void OnAbort() = 0;
};

struct SupervisorOptions {
  absl::Duration cancel_grace;  // From the Cancel message to SIGKILL.
  absl::Duration exit_grace;    // From its result, or its closed channel, to SIGKILL.
};

// One child process from its start to its end: hands its messages and lines to a listener, carries
// messages to it, ends it when asked. Post and Stop may come from any thread, also before Run.
class Supervisor {
 public:
  static constexpr size_t kMaxPosted = 256;

  Supervisor(const SupervisorOptions& options, ChildListener& listener);

  // Starts the program with its end of the channel as descriptor 3, then `request.inherited`;
  // sends `task` and blocks until the process and its group are gone. REQUIRES: called once.
  // A status: it could not be started.
  absl::StatusOr<ChildStory> Run(Spawner& spawner, SpawnRequest request, const pb::Task& task);

  // Sends `message` once the child runs. False: kMaxPosted wait already.
  bool Post(pb::ParentMessage message);

  // Cancel message, then SIGKILL. The first reason counts.
  void Stop(StopReason reason);
  std::optional<StopReason> stop_reason() const;

 private:
  using Clock = std::chrono::steady_clock;

  void ReadMessages(ChildChannel& channel);
  void ReadLines(int fd, const std::stop_token& stop);
  void Watch(ChildProcess& child, ChildChannel& channel);
  // Sends what waits; moves `kill_at` forward to the moment at which patience ends.
  void Attend(const ChildProcess& child, ChildChannel& channel, Clock::time_point& kill_at);
  void Diagnose(pid_t pid);
  void DrainTo(ChildChannel& channel);
  void WaitForReader();
  ChildStory Tell(const ExitReport& exit, int64_t oom_kills_before);
  void Wake();

  const SupervisorOptions options_;
  ChildListener& listener_;
  UniqueFd wake_;  // An eventfd that ends the poll of Watch.

  mutable Mutex mu_;
  std::condition_variable_any changed_;
  std::deque<pb::ParentMessage> posted_ ABSL_GUARDED_BY(mu_);
  std::optional<StopReason> stopped_ ABSL_GUARDED_BY(mu_);
  std::optional<pb::Done> done_ ABSL_GUARDED_BY(mu_);
  std::optional<pb::Failed> failed_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> reader_end_ ABSL_GUARDED_BY(mu_);
  std::string last_line_ ABSL_GUARDED_BY(mu_);

  // Of Watch's thread alone.
  bool cancel_sent_ = false;
  std::string patience_for_;  // After what it should exit.
  std::string impatience_;    // That it did not.
};

}  // namespace lathe::agent
