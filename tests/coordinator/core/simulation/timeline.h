#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <random>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace lathe::simulation {

// Virtual time: what is due, in order; ties in the order they were asked for. And the one source of
// chance, so that a seed is a history.
class Timeline {
 public:
  explicit Timeline(uint64_t seed) : random_(seed) {}

  absl::Time now() const { return now_; }
  void At(absl::Time time, std::function<void()> what) {
    queue_.push({std::max(time, now_), ++order_, std::move(what)});
  }
  void After(absl::Duration delay, std::function<void()> what) {
    At(now_ + delay, std::move(what));
  }
  bool empty() const { return queue_.empty(); }
  absl::Time next() const { return queue_.top().time; }
  // REQUIRES: not before now.
  void AdvanceTo(absl::Time time) { now_ = std::max(now_, time); }
  // REQUIRES: not empty.
  void RunNext() {
    // The queue's order does not depend on `what`.
    auto what = std::move(const_cast<Entry&>(queue_.top()).what);
    AdvanceTo(queue_.top().time);
    queue_.pop();
    what();
  }

  // In [0, below).
  int64_t Below(int64_t below) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(below));
  }
  bool Chance(double probability) {
    return static_cast<double>(random_() >> 11) * 0x1.0p-53 < probability;
  }
  // Uniform in milliseconds.
  absl::Duration Between(absl::Duration from, absl::Duration to) {
    return from + absl::Milliseconds(Below(absl::ToInt64Milliseconds(to - from) + 1));
  }

 private:
  struct Entry {
    absl::Time time;
    uint64_t order = 0;
    std::function<void()> what;
    bool operator<(const Entry& other) const {
      return time != other.time ? time > other.time : order > other.order;
    }
  };
  std::mt19937_64 random_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  uint64_t order_ = 0;
  std::priority_queue<Entry> queue_;
};

}  // namespace lathe::simulation
