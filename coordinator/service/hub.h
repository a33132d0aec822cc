#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "common/base/mutex.h"

namespace lathe {

// Something that looks again when told that there is news.
class Wakeable {
 public:
  virtual ~Wakeable() = default;
  virtual void Wake() = 0;
};

// Who waits for news of what. Wakes on a thread of its own, so that who has the news never waits
// for those who want them. Thread-safe; news that nobody has looked at yet are told once.
class Hub {
 public:
  Hub();
  ~Hub();

  void Subscribe(const std::string& key, const std::weak_ptr<Wakeable>& who);
  void Unsubscribe(const std::string& key, const Wakeable* who);
  void Notify(const std::string& key);
  // Everybody: the end is near.
  void NotifyAll();

 private:
  void Run(const std::stop_token& stop);
  std::vector<std::shared_ptr<Wakeable>> ListenersLocked(const std::string& key)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  std::condition_variable_any wake_;
  std::map<std::string, std::vector<std::weak_ptr<Wakeable>>> listeners_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> news_ ABSL_GUARDED_BY(mutex_);
  std::jthread thread_;
};

}  // namespace lathe
