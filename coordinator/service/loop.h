#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <stop_token>
#include <thread>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"

namespace lathe {

// One thread that runs tasks in order and wakes at the next deadline: what owns state by living on
// one thread needs no lock. Callers either wait for their task or have one task in flight each, so
// the queue is bounded by their number.
class Loop {
 public:
  // `on_deadline` runs when next_deadline() has come; both run on the loop's thread after tasks.
  Loop(const Clock& clock, std::function<absl::Time()> next_deadline,
       std::function<void()> on_deadline);
  ~Loop();

  // False: the loop is ending and the task will not run.
  bool Post(std::function<void()> task);

  // Runs `f` on the loop and waits for its result; `otherwise` if the loop is ending. REQUIRES: not
  // on the loop's thread.
  template <class F, class R = std::invoke_result_t<F>>
  R Call(F f, R otherwise) {
    std::promise<R> promise;
    std::future<R> result = promise.get_future();
    if (!Post([&] { promise.set_value(f()); })) return otherwise;
    return result.get();
  }

  // Runs what was posted and ends. Idempotent.
  void Stop();

 private:
  void Run(const std::stop_token& stop);

  const Clock& clock_;
  const std::function<absl::Time()> next_deadline_;
  const std::function<void()> on_deadline_;
  Mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::jthread thread_;
};

}  // namespace lathe
