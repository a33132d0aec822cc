#include "worker/data/report.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace lathe {
namespace {

TEST(ProblemList, KeepsErrorsBeforeWarningsAndCountsAll) {
  ProblemList list;
  for (int i = 0; i < 2000; ++i) list.Add({i + 1, i, ProblemCode::kTruncated, "long"});
  for (int i = 0; i < 900; ++i) list.Add({i + 1, i, ProblemCode::kBadJson, "bad"});
  EXPECT_EQ(list.total(), 2900);
  const std::vector<RowProblem> problems = list.TakeSorted();
  EXPECT_EQ(problems.size(), 1000U);
  EXPECT_EQ(std::count_if(problems.begin(), problems.end(),
                          [](const auto& p) { return p.code == ProblemCode::kBadJson; }),
            900);
  EXPECT_TRUE(std::is_sorted(problems.begin(), problems.end(),
                             [](const auto& a, const auto& b) { return a.row < b.row; }));
}

TEST(ProblemList, NamesAFieldThatIsNotUsedOnce) {
  ProblemList list;
  for (int i = 0; i < 100; ++i)
    list.Add({i + 1, i, ProblemCode::kUnknownField, "'id' is not used"});
  EXPECT_EQ(list.total(), 1);
  EXPECT_EQ(list.TakeSorted().size(), 1U);
}

TEST(ProblemList, TheFirstErrorIsTheOneOfTheLowestRow) {
  ProblemList list;
  list.Add({1, 0, ProblemCode::kTruncated, "w"});
  list.Add({9, 8, ProblemCode::kBadJson, "late"});
  list.Add({4, 3, ProblemCode::kBadUtf8, "early"});
  EXPECT_EQ(DescribeProblem(*list.first_error()), "line 4 (row 3): bad_utf8: early");
}

TEST(ReportToJson, HasTheFieldsOfTheProto) {
  DatasetReport report;
  report.rows = 2;
  report.problems = {{4, 3, ProblemCode::kBadUtf8, "byte \"1\""}};
  report.rows_by_task["sorting"] = 2;
  const auto json = nlohmann::json::parse(ReportToJson(report));
  EXPECT_EQ(json["rows"], 2);
  EXPECT_EQ(json["rows_by_task"]["sorting"], 2);
  EXPECT_EQ(json["problems"][0]["code"], "bad_utf8");
  EXPECT_EQ(json["problems"][0]["severity"], "error");
  EXPECT_EQ(json["problems"][0]["reason"], "byte \"1\"");
}

}  // namespace
}  // namespace lathe
