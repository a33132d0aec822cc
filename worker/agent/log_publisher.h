#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "lathe/internal/v1/agent.pb.h"
#include "worker/agent/agent_probe.h"
#include "worker/agent/coordinator_channel.h"
#include "worker/agent/transfers.h"

namespace lathe::agent {

// Sends the output of child processes to the coordinator, in batches. A batch whose sending broke
// is sent again, so lines may arrive twice. Bounded to kMaxQueuedBytes: a flood, or an absent
// coordinator, costs the oldest lines, and a line says how many. Thread-safe.
class LogPublisher {
 public:
  static constexpr size_t kMaxQueuedBytes = 4 << 20;

  struct Origin {
    std::string job_id;
    std::string assignment_id;
    std::string source;
  };

  LogPublisher(CoordinatorChannel& channel, SessionGate& gate, AgentProbe& probe);

  // `line` is one clean line without its end.
  void Add(const Origin& origin, std::string line);
  // Waits until all that was added before has been sent. False: not within `timeout`.
  bool Flush(absl::Duration timeout);

 private:
  struct Line {
    Origin origin;
    std::string text;
  };
  void Run(const std::stop_token& stop);
  std::vector<pb::PublishLogsRequest> TakeBatch();

  CoordinatorChannel& channel_;
  SessionGate& gate_;
  AgentProbe& probe_;
  Mutex mu_;
  std::condition_variable_any changed_;
  std::deque<Line> lines_ ABSL_GUARDED_BY(mu_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t num_dropped_ ABSL_GUARDED_BY(mu_) = 0;  // Since the last batch.
  int64_t num_added_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t num_settled_ ABSL_GUARDED_BY(mu_) = 0;  // Sent or dropped.
  int64_t num_in_batch_ ABSL_GUARDED_BY(mu_) = 0;
  std::jthread thread_;
};

}  // namespace lathe::agent
