#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "common/base/mutex.h"
#include "coordinator/service/coordinator.h"

namespace lathe {

// Lets a handler wait for what an errand tells. Thread-safe. The errand always ends, by its
// deadline at the latest.
class ErrandWait {
 public:
  // REQUIRES: `wait` is the only other owner; the callbacks may outlive the handler.
  static ErrandCallbacks CallbacksFor(const std::shared_ptr<ErrandWait>& wait) {
    return {[wait](const std::string& line) { wait->Push(line); },
            [wait](const Ended& ended) { wait->End(ended); }};
  }

  // The next progress line, or nothing once it has ended.
  std::optional<std::string> NextProgress() {
    MutexLock lock(mutex_);
    changed_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return !progress_.empty() || ended_.has_value();
    });
    if (progress_.empty()) return std::nullopt;
    std::string line = std::move(progress_.front());
    progress_.pop_front();
    return line;
  }

  // Waits for the end.
  Ended Result() {
    while (NextProgress().has_value()) {
    }
    const MutexLock lock(mutex_);
    return ended_.value_or(Ended());
  }

 private:
  static constexpr size_t kMaxLines = 64;  // Older lines are news to nobody.

  void Push(const std::string& line) {
    const MutexLock lock(mutex_);
    if (progress_.size() == kMaxLines) progress_.pop_front();
    progress_.push_back(line);
    changed_.notify_all();
  }

  void End(const Ended& ended) {
    const MutexLock lock(mutex_);
    ended_ = ended;
    changed_.notify_all();
  }

  Mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::string> progress_ ABSL_GUARDED_BY(mutex_);
  std::optional<Ended> ended_ ABSL_GUARDED_BY(mutex_);
};

// The end of an errand that failed, as its caller gets it.
inline absl::Status ErrandError(const Ended& ended) {
  if (ended.ok) return absl::OkStatus();
  // A process that was lost is nothing that the caller did.
  const bool lost = ended.cause == EndCause::kMachine &&
                    ended.code != static_cast<int>(absl::StatusCode::kDeadlineExceeded) &&
                    ended.code != static_cast<int>(absl::StatusCode::kResourceExhausted);
  const int code = lost ? static_cast<int>(absl::StatusCode::kUnavailable) : ended.code;
  const bool known = code > 0 && code <= 16;
  return absl::Status(known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kInternal,
                      ended.message);
}

}  // namespace lathe
