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
  // Between two signs of progress of a rank in this phase, the longest of this attempt; zero: none
  // was seen.
  absl::Duration longest = {};
};

struct HangOptions {
  // Of a micro-batch, an evaluated batch or a sum over the ranks, at least: ten times the longest
  // one so far is allowed as well, for rows are short and long.
  absl::Duration step = absl::Seconds(60);
  // Of a phase that is done once: loading 15 GB, the first micro-batch, an export.
  absl::Duration slow = absl::Minutes(30);
};

struct Hang {
  int rank = 0;  // To blame.
  std::string what;
};

// Whether the time from one sign of progress to the next says how long the steps of this training
// take.
bool IsStepwise(const RankProgress& rank);

// How long a rank may stay as it is.
absl::Duration HangDeadline(const RankProgress& rank, const HangOptions& options);

// A rank that waits in a sum for another is not to blame; who has entered fewer sums is. Nullopt:
// that one is not over its deadline. `ranks`: those that have not ended.
std::optional<Hang> FindHang(const std::vector<RankProgress>& ranks, absl::Time now,
                             const HangOptions& options);

// When FindHang finds one if nothing is heard before.
absl::Time NextHangCheck(const std::vector<RankProgress>& ranks, const HangOptions& options);

}  // namespace lathe
