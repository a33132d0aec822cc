#pragma once

#include <cstdint>
#include <initializer_list>

// Counter-based randomness: any draw is a pure function of its key and its number, so that a
// resumed run needs no generator state. The mixing is SplitMix64 (Steele, Lea, Flood, "Fast
// splittable pseudorandom number generators", 2014; constants of Vigna's splitmix64.c).

namespace lathe {

// One key out of several numbers; their order matters.
uint64_t MixKey(std::initializer_list<uint64_t> parts);

// A stream of draws. Thread-compatible.
class CounterRandom {
 public:
  explicit CounterRandom(uint64_t key) : state_(key) {}

  uint64_t Next();
  // Uniform in [0, bound), without bias. REQUIRES: bound > 0.
  uint64_t Below(uint64_t bound);

 private:
  uint64_t state_;
};

}  // namespace lathe
