#include "worker/agent/log_publisher.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace lathe::agent {
namespace {

constexpr size_t kMaxBatchBytes = 512 << 10;
constexpr size_t kMaxRequestBytes = 64 << 10;
constexpr size_t kLineOverheadBytes = 128;  // Of the queue's own bookkeeping.
constexpr absl::Duration kRetryPause = absl::Seconds(1);
constexpr absl::Duration kGateTimeout = absl::Minutes(1);

bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsResourceExhausted(status) || absl::IsAborted(status);
}

bool SameOrigin(const pb::PublishLogsRequest& request, const LogPublisher::Origin& origin) {
  return request.assignment_id() == origin.assignment_id && request.source() == origin.source;
}

// Lines of one origin that follow each other share a request.
void AppendLine(const LogPublisher::Origin& origin, absl::string_view text,
                std::vector<pb::PublishLogsRequest>& batch) {
  if (batch.empty() || !SameOrigin(batch.back(), origin) ||
      batch.back().text().size() + text.size() >= kMaxRequestBytes) {
    pb::PublishLogsRequest& request = batch.emplace_back();
    request.set_job_id(origin.job_id);
    request.set_assignment_id(origin.assignment_id);
    request.set_source(origin.source);
  }
  absl::StrAppend(batch.back().mutable_text(), text, "\n");
}

}  // namespace

LogPublisher::LogPublisher(CoordinatorChannel& channel, SessionGate& gate, AgentProbe& probe)
    : channel_(channel),
      gate_(gate),
      probe_(probe),
      thread_([this](const std::stop_token& stop) { Run(stop); }) {}

void LogPublisher::Add(const Origin& origin, std::string line) {
  const MutexLock lock(mu_);
  ++num_added_;
  queued_bytes_ += line.size() + kLineOverheadBytes;
  lines_.push_back({origin, std::move(line)});
  while (queued_bytes_ > kMaxQueuedBytes) {
    queued_bytes_ -= lines_.front().text.size() + kLineOverheadBytes;
    lines_.pop_front();
    ++num_dropped_;
    ++num_settled_;
    probe_.OnLogLinesDropped(1);
  }
  changed_.notify_all();
}

bool LogPublisher::Flush(absl::Duration timeout) {
  MutexLock lock(mu_);
  const int64_t target = num_added_;
  return changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout),
                           [this, target]()
                               ABSL_NO_THREAD_SAFETY_ANALYSIS { return num_settled_ >= target; });
}

std::vector<pb::PublishLogsRequest> LogPublisher::TakeBatch() {
  const MutexLock lock(mu_);
  std::vector<pb::PublishLogsRequest> batch;
  if (num_dropped_ > 0) {
    AppendLine(lines_.front().origin,
               absl::StrCat("[", num_dropped_, " lines of this worker's output were dropped here]"),
               batch);
    num_dropped_ = 0;
  }
  size_t bytes = 0;
  while (!lines_.empty() && bytes < kMaxBatchBytes) {
    const Line& line = lines_.front();
    AppendLine(line.origin, line.text, batch);
    bytes += line.text.size() + kLineOverheadBytes;
    queued_bytes_ -= line.text.size() + kLineOverheadBytes;
    lines_.pop_front();
    ++num_in_batch_;
  }
  return batch;
}

void LogPublisher::Run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    {
      MutexLock lock(mu_);
      const bool any = changed_.wait(
          lock, stop, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !lines_.empty(); });
      if (!any) return;
    }
    // Lines wait in the bounded queue, not in a batch, while nobody is there.
    if (!gate_.Wait(kGateTimeout, stop)) continue;
    const std::vector<pb::PublishLogsRequest> batch = TakeBatch();
    while (!stop.stop_requested() && MayPass(channel_.PublishLogs(batch, stop))) {
      gate_.Pause(kRetryPause, stop);
      gate_.Wait(kGateTimeout, stop);
    }
    const MutexLock lock(mu_);
    num_settled_ += std::exchange(num_in_batch_, 0);
    changed_.notify_all();
  }
}

}  // namespace lathe::agent
