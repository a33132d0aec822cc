#include "worker/engine/train/plan/random.h"

namespace lathe {
namespace {

constexpr uint64_t kGoldenGamma = 0x9e3779b97f4a7c15U;

uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

}  // namespace

uint64_t MixKey(std::initializer_list<uint64_t> parts) {
  uint64_t key = 0;
  for (const uint64_t part : parts) key = Mix(key + kGoldenGamma + Mix(part + kGoldenGamma));
  return key;
}

uint64_t CounterRandom::Next() {
  state_ += kGoldenGamma;
  return Mix(state_);
}

uint64_t CounterRandom::Below(uint64_t bound) {
  // The lowest 2^64 mod bound values would make small results more likely.
  const uint64_t reject_below = (0 - bound) % bound;
  uint64_t draw = Next();
  while (draw < reject_below) draw = Next();
  return draw % bound;
}

}  // namespace lathe
