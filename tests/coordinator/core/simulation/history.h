#pragma once

#include <cstdint>
#include <string>

#include "tests/coordinator/core/simulation/options.h"

namespace lathe::simulation {

// The shape of a small history, drawn from its seed.
SimOptions SmallHistory(uint64_t seed);
SimOptions LargeHistory();

struct Outcome {
  std::string broken;  // The first promise that was broken, and when; empty: all held.
  SimStats stats;
};

// Runs one history in virtual time on this thread: a coordinator, its workers and users, with
// faults until options.events have happened and then without, until every job has ended. The same
// seed and options give the same history.
Outcome RunHistory(uint64_t seed, const SimOptions& options);

}  // namespace lathe::simulation
