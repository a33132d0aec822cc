#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

// Whether a training stands still, and which of its ranks is to blame: decisions as pure functions.

namespace lathe {

// Phases of a rank as proto/lathe/internal/v1/child.proto names them.
inline constexpr char kPhaseReduce[] = "reduce";

struct RankProgress {
  int rank = 0;
  std::string phase = {};  // Empty: it has said nothing yet.
  int64_t counter = 0;     // Grows while the rank makes progress.
  int64_t collective = 0;  // Sums over all ranks that it has entered.
  absl::Time since;        // When `counter` changed last, by the coordinator's clock.
};

struct HangOptions {
  // Of a micro-batch, an evaluated batch or a sum over the ranks, at least: five times the longest
  // one so far is allowed as well.
  absl::Duration step = absl::Seconds(30);
  // Of a phase that is done once: loading 15 GB, the first micro-batch, an export.
  absl::Duration slow = absl::Minutes(15);
};

struct Hang {
  int rank = 0;  // To blame.
  std::string what;
};

// Whether the time from one sign of progress to the next says how long the steps of this training
// take.
bool IsStepwise(const RankProgress& rank);

// How long a rank may stay as it is. `longest`: between two signs of progress of one phase in this
// attempt; zero: none was seen.
absl::Duration HangDeadline(const RankProgress& rank, absl::Duration longest,
                            const HangOptions& options);

// A rank that waits in a sum for another is not to blame; who has entered fewer sums is. Nullopt:
// that one is not over its deadline.
// `ranks`: those that have not ended.
std::optional<Hang> FindHang(const std::vector<RankProgress>& ranks, absl::Duration longest,
                             absl::Time now, const HangOptions& options);

// When FindHang finds one if nothing is heard before.
absl::Time NextHangCheck(const std::vector<RankProgress>& ranks, absl::Duration longest,
                         const HangOptions& options);

}  // namespace lathe
