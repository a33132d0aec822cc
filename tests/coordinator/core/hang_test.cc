#include "coordinator/core/hang.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lathe {
namespace {

using ::testing::HasSubstr;

constexpr HangOptions kOptions;

absl::Time At(int seconds) { return absl::FromUnixSeconds(1000 + seconds); }

RankProgress Rank(const std::string& phase, int64_t collective, int since, int rank = 0) {
  return {.rank = rank,
          .phase = phase,
          .counter = 7,
          .collective = collective,
          .since = At(since),
          .longest = absl::Seconds(1)};
}

RankProgress WithLongest(RankProgress rank, int seconds) {
  rank.longest = absl::Seconds(seconds);
  return rank;
}

std::optional<Hang> Find(const std::vector<RankProgress>& ranks, int now) {
  return FindHang(ranks, At(now), kOptions);
}

TEST(HangTest, ARankThatMakesProgressIsNotHung) {
  EXPECT_FALSE(Find({Rank("train", 3, 0), Rank("reduce", 4, 0)}, 59).has_value());
}

TEST(HangTest, WhoDidNotEnterTheSumIsToBlameAndNotWhoWaitsThere) {
  const auto hang = Find({Rank("reduce", 57, 0, 2), Rank("train", 56, 0, 3)}, 60);
  ASSERT_TRUE(hang.has_value());
  EXPECT_EQ(hang->rank, 3);
  EXPECT_EQ(hang->what, "did not enter collective 57: it made no progress for 60 s in phase train");
}

TEST(HangTest, WhoWaitsForOneThatIsNotOverItsDeadlineIsNotHung) {
  EXPECT_FALSE(Find({Rank("reduce", 57, 0), Rank("train", 56, 20)}, 79).has_value());
}

TEST(HangTest, WhenAllAreInOneSumItSaysSo) {
  const auto hang = Find({Rank("reduce", 57, 5), Rank("reduce", 57, 0, 1)}, 60);
  ASSERT_TRUE(hang.has_value());
  EXPECT_EQ(hang->rank, 1);
  EXPECT_THAT(hang->what, HasSubstr("all ranks are in collective 57"));
}

TEST(HangTest, LoadingMayTakeLongAndSoMayTheFirstMicroBatch) {
  EXPECT_FALSE(Find({Rank("load", 0, 0)}, 1799).has_value());
  EXPECT_TRUE(Find({Rank("load", 0, 0)}, 1800).has_value());
  EXPECT_FALSE(Find({WithLongest(Rank("train", 0, 0), 0)}, 1799).has_value());
}

TEST(HangTest, ARankThatNeverSaidAnythingIsNamedToo) {
  const auto hang = Find({Rank("", 0, 0), Rank("rendezvous", 0, 10, 1)}, 1800);
  ASSERT_TRUE(hang.has_value());
  EXPECT_EQ(hang->rank, 0);
  EXPECT_THAT(hang->what, HasSubstr("in phase start"));
}

TEST(HangTest, SlowStepsHaveTenTimesTheLongestSoFar) {
  EXPECT_FALSE(Find({WithLongest(Rank("train", 1, 0), 20)}, 199).has_value());
  EXPECT_TRUE(Find({WithLongest(Rank("train", 1, 0), 20)}, 200).has_value());
}

TEST(HangTest, TheNextCheckIsTheDeadlineOfTheRankThatTheOthersWaitFor) {
  const std::vector<RankProgress> ranks = {Rank("reduce", 57, 0), Rank("train", 56, 20)};
  EXPECT_EQ(NextHangCheck(ranks, kOptions), At(80));
  EXPECT_EQ(NextHangCheck({}, kOptions), absl::InfiniteFuture());
}

}  // namespace
}  // namespace lathe
