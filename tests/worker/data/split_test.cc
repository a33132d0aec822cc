#include "worker/data/split.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lathe {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

using Rows = std::vector<std::optional<SplitRow>>;

SplitRow MakeRow(const std::string& text, RowSplit split = RowSplit::kUnset) {
  return {ContentKeyOf({{Role::kUser, text, true}, {Role::kAssistant, "a", true}}), split};
}

Rows Different(int count) {
  Rows rows;
  for (int i = 0; i < count; ++i) rows.push_back(MakeRow(absl::StrCat("row ", i)));
  return rows;
}

auto CountOf(const std::vector<Side>& sides, Side side) {
  return std::count(sides.begin(), sides.end(), side);
}

TEST(SplitRows, HoldsOutTheRoundedFraction) {
  EXPECT_EQ(CountOf(SplitRows(Different(1000), 0.1, 1), Side::kValidation), 100);
  EXPECT_EQ(CountOf(SplitRows(Different(14), 0.1, 1), Side::kValidation), 1);
  EXPECT_EQ(CountOf(SplitRows(Different(15), 0.1, 1), Side::kValidation), 2);
}

TEST(SplitRows, HoldsOutAtLeastOneOfTwoRowsAndNeverAll) {
  EXPECT_EQ(CountOf(SplitRows(Different(2), 0.01, 1), Side::kValidation), 1);
  EXPECT_EQ(CountOf(SplitRows(Different(2), 0.5, 1), Side::kTraining), 1);
  EXPECT_THAT(SplitRows(Different(1), 0.5, 1), ElementsAre(Side::kTraining));
  EXPECT_THAT(SplitRows(Different(5), 0, 1), Each(Side::kTraining));
  EXPECT_TRUE(SplitRows({}, 0.1, 1).empty());
}

TEST(SplitRows, DependsOnSeedAndContentNotOnOrder) {
  Rows rows = Different(100);
  const std::vector<Side> sides = SplitRows(rows, 0.3, 7);
  EXPECT_EQ(SplitRows(rows, 0.3, 7), sides);
  EXPECT_NE(SplitRows(rows, 0.3, 8), sides);
  std::reverse(rows.begin(), rows.end());
  std::vector<Side> reversed = SplitRows(rows, 0.3, 7);
  std::reverse(reversed.begin(), reversed.end());
  EXPECT_EQ(reversed, sides);
}

TEST(SplitRows, OneMoreRowMovesAtMostOneOther) {
  Rows rows = Different(100);
  const std::vector<Side> before = SplitRows(rows, 0.3, 7);
  rows.push_back(MakeRow("another"));
  const std::vector<Side> after = SplitRows(rows, 0.3, 7);
  int moved = 0;
  for (size_t i = 0; i < before.size(); ++i) moved += before[i] == after[i] ? 0 : 1;
  EXPECT_LE(moved, 1);
}

TEST(SplitRows, DuplicatesStayTogether) {
  Rows rows;
  for (int i = 0; i < 300; ++i) rows.push_back(MakeRow(absl::StrCat("row ", i % 60)));
  const std::vector<Side> sides = SplitRows(rows, 0.25, 3);
  std::map<ContentKey, Side> side_of;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto [it, is_new] = side_of.emplace(rows[i]->key, sides[i]);
    EXPECT_EQ(it->second, sides[i]) << i;
  }
  EXPECT_EQ(CountOf(sides, Side::kValidation), 15 * 5);
}

TEST(SplitRows, TheFieldDecidesWhereAnyRowHasIt) {
  const Rows rows = {MakeRow("a"), MakeRow("b", RowSplit::kValidation), std::nullopt,
                     MakeRow("c", RowSplit::kTraining)};
  EXPECT_THAT(SplitRows(rows, 0.5, 1),
              ElementsAre(Side::kTraining, Side::kValidation, Side::kNone, Side::kTraining));
}

TEST(SplitRows, ACopyOfATrainingRowIsNotHeldOutWhereverItStands) {
  const Rows rows = {MakeRow("a", RowSplit::kValidation), MakeRow("a", RowSplit::kTraining),
                     MakeRow("a", RowSplit::kValidation), MakeRow("b", RowSplit::kValidation)};
  EXPECT_THAT(SplitRows(rows, 0, 1), ElementsAre(Side::kInTraining, Side::kTraining,
                                                 Side::kInTraining, Side::kValidation));
}

TEST(ContentKeyOf, LooksAtRolesAndContentsNotAtWeights) {
  const Conversation a = {{Role::kUser, "ab", true}, {Role::kAssistant, "c", true}};
  const Conversation weighted = {{Role::kUser, "ab", true}, {Role::kAssistant, "c", false}};
  const Conversation shifted = {{Role::kUser, "a", true}, {Role::kAssistant, "bc", true}};
  const Conversation roles = {{Role::kSystem, "ab", true}, {Role::kAssistant, "c", true}};
  EXPECT_EQ(ContentKeyOf(a), ContentKeyOf(weighted));
  EXPECT_NE(ContentKeyOf(a), ContentKeyOf(shifted));
  EXPECT_NE(ContentKeyOf(a), ContentKeyOf(roles));
}

}  // namespace
}  // namespace lathe
