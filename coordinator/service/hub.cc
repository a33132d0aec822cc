#include "coordinator/service/hub.h"

namespace lathe {

Hub::Hub() : thread_([this](const std::stop_token& stop) { Run(stop); }) {}

Hub::~Hub() {
  thread_.request_stop();
  thread_.join();
}

void Hub::Subscribe(const std::string& key, const std::weak_ptr<Wakeable>& who) {
  const MutexLock lock(mutex_);
  std::vector<std::weak_ptr<Wakeable>>& listeners = listeners_[key];
  std::erase_if(listeners, [](const auto& listener) { return listener.expired(); });
  listeners.push_back(who);
}

void Hub::Unsubscribe(const std::string& key, const Wakeable* who) {
  const MutexLock lock(mutex_);
  const auto found = listeners_.find(key);
  if (found == listeners_.end()) return;
  std::erase_if(found->second, [&](const std::weak_ptr<Wakeable>& listener) {
    const auto alive = listener.lock();
    return alive == nullptr || alive.get() == who;
  });
  if (found->second.empty()) listeners_.erase(found);
}

void Hub::Notify(const std::string& key) {
  {
    const MutexLock lock(mutex_);
    if (!listeners_.contains(key)) return;
    news_.insert(key);
  }
  wake_.notify_all();
}

void Hub::NotifyAll() {
  {
    const MutexLock lock(mutex_);
    for (const auto& [key, listeners] : listeners_) news_.insert(key);
  }
  wake_.notify_all();
}

std::vector<std::shared_ptr<Wakeable>> Hub::ListenersLocked(const std::string& key) {
  std::vector<std::shared_ptr<Wakeable>> alive;
  const auto found = listeners_.find(key);
  if (found == listeners_.end()) return alive;
  for (const std::weak_ptr<Wakeable>& listener : found->second) {
    if (auto who = listener.lock(); who != nullptr) alive.push_back(std::move(who));
  }
  if (alive.empty()) listeners_.erase(found);
  return alive;
}

void Hub::Run(const std::stop_token& stop) {
  while (true) {
    std::vector<std::shared_ptr<Wakeable>> alive;
    {
      MutexLock lock(mutex_);
      wake_.wait(lock, stop, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !news_.empty(); });
      if (stop.stop_requested()) return;
      const std::string key = *news_.begin();
      news_.erase(news_.begin());
      alive = ListenersLocked(key);
    }
    for (const std::shared_ptr<Wakeable>& who : alive) who->Wake();
  }
}

}  // namespace lathe
