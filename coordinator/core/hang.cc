#include "coordinator/core/hang.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace lathe {
namespace {

constexpr int kPatience = 10;  // Times the longest so far.

std::string Seconds(absl::Duration duration) {
  return absl::StrCat(absl::ToInt64Seconds(duration), " s");
}

// The rank that has entered the fewest sums; of several one that is not in a sum, then the one that
// has stood longest.
size_t LastOf(const std::vector<RankProgress>& ranks) {
  const auto key = [](const RankProgress& rank) {
    return std::make_tuple(rank.collective, rank.phase == kPhaseReduce, rank.since);
  };
  const auto last = std::min_element(ranks.begin(), ranks.end(),
                                     [&](const auto& a, const auto& b) { return key(a) < key(b); });
  return static_cast<size_t>(last - ranks.begin());
}

std::string Describe(const std::vector<RankProgress>& ranks, size_t to_blame, absl::Time now) {
  const RankProgress& rank = ranks[to_blame];
  const std::string stands = absl::StrCat("made no progress for ", Seconds(now - rank.since),
                                          " in phase ", rank.phase.empty() ? "start" : rank.phase);
  const int64_t furthest =
      std::max_element(ranks.begin(), ranks.end(), [](const auto& a, const auto& b) {
        return a.collective < b.collective;
      })->collective;
  if (furthest > rank.collective) {
    return absl::StrCat("did not enter collective ", furthest, ": it ", stands);
  }
  if (rank.phase == kPhaseReduce && ranks.size() > 1) {
    return absl::StrCat(stands, ": all ranks are in collective ", rank.collective);
  }
  return stands;
}

}  // namespace

bool IsStepwise(const RankProgress& rank) {
  return rank.phase == "train" || rank.phase == kPhaseReduce || rank.phase == "evaluate";
}

absl::Duration HangDeadline(const RankProgress& rank, const HangOptions& options) {
  if (!IsStepwise(rank) || rank.longest == absl::ZeroDuration()) return options.slow;
  return std::max(options.step, kPatience * rank.longest);
}

std::optional<Hang> FindHang(const std::vector<RankProgress>& ranks, absl::Time now,
                             const HangOptions& options) {
  if (now < NextHangCheck(ranks, options)) return std::nullopt;
  const size_t last = LastOf(ranks);
  return Hang{ranks[last].rank, Describe(ranks, last, now)};
}

absl::Time NextHangCheck(const std::vector<RankProgress>& ranks, const HangOptions& options) {
  if (ranks.empty()) return absl::InfiniteFuture();
  const RankProgress& last = ranks[LastOf(ranks)];
  return last.since + HangDeadline(last, options);
}

}  // namespace lathe
