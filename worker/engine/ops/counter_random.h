#pragma once

#include <cstdint>

// Random numbers as a pure function of (seed, stream, index): the same bits on every rank, whatever
// the number of threads and the order of calls.

namespace lathe {

// The finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
// generators", 2014).
constexpr uint64_t Mix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

// Mixes a key once per stream, so that a loop over indices pays one Mix64 per number.
constexpr uint64_t StreamKey(uint64_t seed, uint64_t stream) { return Mix64(Mix64(seed) ^ stream); }

// In [0, 1), 53 random bits.
constexpr double UniformAt(uint64_t stream_key, uint64_t index) {
  return static_cast<double>(Mix64(stream_key + index * 0xD1342543DE82EF95U) >> 11) * 0x1.0p-53;
}

}  // namespace lathe
