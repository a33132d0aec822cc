#include "coordinator/service/loop.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace lathe {

Loop::Loop(const Clock& clock, std::function<absl::Time()> next_deadline,
           std::function<void()> on_deadline)
    : clock_(clock),
      next_deadline_(std::move(next_deadline)),
      on_deadline_(std::move(on_deadline)),
      thread_([this](const std::stop_token& stop) { Run(stop); }) {}

Loop::~Loop() { Stop(); }

bool Loop::Post(std::function<void()> task) {
  {
    const MutexLock lock(mutex_);
    if (stopping_) return false;
    tasks_.push_back(std::move(task));
  }
  wake_.notify_all();
  return true;
}

void Loop::Stop() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

void Loop::Run(const std::stop_token& stop) {
  while (true) {
    // An hour bounds the wait for a deadline that never comes.
    const absl::Duration left =
        std::clamp(next_deadline_() - clock_.Now(), absl::ZeroDuration(), absl::Hours(1));
    std::function<void()> task;
    {
      MutexLock lock(mutex_);
      wake_.wait_for(lock, stop, absl::ToChronoMilliseconds(left) + std::chrono::milliseconds(1),
                     [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !tasks_.empty(); });
      if (!tasks_.empty()) {
        task = std::move(tasks_.front());
        tasks_.pop_front();
      } else if (stop.stop_requested()) {
        return;
      }
    }
    if (task) task();
    if (next_deadline_() <= clock_.Now()) on_deadline_();
  }
}

}  // namespace lathe
