#include "coordinator/core/hang.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lathe {
namespace {

using ::testing::HasSubstr;

constexpr HangOptions kOptions;

absl::Time At(int seconds) { return absl::FromUnixSeconds(1000 + seconds); }

RankProgress Rank(const std::string& phase, int64_t collective, int since, int rank = 0) {
  return {.rank = rank, .phase = phase, .counter = 7, .collective = collective, .since = At(since)};
}

std::optional<Hang> Find(const std::vector<RankProgress>& ranks, int now,
                         absl::Duration longest = absl::Seconds(1)) {
  return FindHang(ranks, longest, At(now), kOptions);
}

TEST(HangTest, ARankThatMakesProgressIsNotHung) {
  EXPECT_FALSE(Find({Rank("train", 3, 0), Rank("reduce", 4, 0)}, 29).has_value());
}

TEST(HangTest, WhoDidNotEnterTheSumIsToBlameAndNotWhoWaitsThere) {
  const auto hang = Find({Rank("reduce", 57, 0, 2), Rank("train", 56, 0, 3)}, 30);
  ASSERT_TRUE(hang.has_value());
  EXPECT_EQ(hang->rank, 3);
  EXPECT_EQ(hang->what, "did not enter collective 57: it made no progress for 30 s in phase train");
}

TEST(HangTest, WhoWaitsForOneThatIsNotOverItsDeadlineIsNotHung) {
  EXPECT_FALSE(Find({Rank("reduce", 57, 0), Rank("train", 56, 20)}, 40).has_value());
}

TEST(HangTest, WhenAllAreInOneSumItSaysSo) {
  const auto hang = Find({Rank("reduce", 57, 5), Rank("reduce", 57, 0, 1)}, 60);
  ASSERT_TRUE(hang.has_value());
  EXPECT_EQ(hang->rank, 1);
  EXPECT_THAT(hang->what, HasSubstr("all ranks are in collective 57"));
}

TEST(HangTest, LoadingMayTakeLongAndSoMayTheFirstMicroBatch) {
  EXPECT_FALSE(Find({Rank("load", 0, 0)}, 899).has_value());
  EXPECT_TRUE(Find({Rank("load", 0, 0)}, 900).has_value());
  EXPECT_FALSE(Find({Rank("train", 0, 0)}, 899, absl::ZeroDuration()).has_value());
}

TEST(HangTest, ARankThatNeverSaidAnythingIsNamedToo) {
  const auto hang = Find({Rank("", 0, 0), Rank("rendezvous", 0, 10, 1)}, 900);
  ASSERT_TRUE(hang.has_value());
  EXPECT_EQ(hang->rank, 0);
  EXPECT_THAT(hang->what, HasSubstr("in phase start"));
}

TEST(HangTest, SlowStepsHaveFiveTimesTheLongestSoFar) {
  EXPECT_FALSE(Find({Rank("train", 1, 0)}, 99, absl::Seconds(20)).has_value());
  EXPECT_TRUE(Find({Rank("train", 1, 0)}, 100, absl::Seconds(20)).has_value());
}

TEST(HangTest, TheNextCheckIsTheDeadlineOfTheRankThatTheOthersWaitFor) {
  const std::vector<RankProgress> ranks = {Rank("reduce", 57, 0), Rank("train", 56, 20)};
  EXPECT_EQ(NextHangCheck(ranks, absl::Seconds(1), kOptions), At(50));
  EXPECT_EQ(NextHangCheck({}, absl::Seconds(1), kOptions), absl::InfiniteFuture());
}

}  // namespace
}  // namespace lathe
