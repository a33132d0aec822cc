#include "coordinator/service/hang_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/file.h"
#include "nlohmann/json.hpp"

namespace lathe {
namespace {

TEST(HangReportTest, NamesWhoWasBlamedWhatEveryRankSaidAndTheSettings) {
  HangReport report;
  report.job.id = JobId("job-1");
  report.job.attempt = 3;
  report.hang = {1, "did not enter collective 57"};
  report.time = absl::FromUnixSeconds(1000);
  report.workers = {{.name = "a", .build = "0.1.0"}, {.name = "b"}};
  report.ranks = {
      {.rank = 0, .phase = "reduce", .counter = 9, .collective = 57, .since = report.time},
      {.rank = 1, .phase = "\xff", .counter = 8, .collective = 56, .since = absl::UnixEpoch()}};
  const auto folder = *TempFolder::Make("hang-report-test");
  ASSERT_TRUE(KeepHangReport(folder.path() / "hangs", report).ok());
  const auto text = ReadFile(folder.path() / "hangs/job-1-attempt-3.json");
  ASSERT_TRUE(text.ok()) << text.status();
  const auto json = nlohmann::json::parse(*text);
  EXPECT_EQ(json["rank_to_blame"], 1);
  EXPECT_EQ(json["ranks"][0]["worker"], "a");
  EXPECT_EQ(json["ranks"][0]["worker_version"], "0.1.0");
  EXPECT_NE(json["coordinator_version"], "");
  EXPECT_EQ(json["ranks"][1]["collective"], 56);
  EXPECT_EQ(json["ranks"][1]["seconds_without_progress"], 1000);
  EXPECT_EQ(json["spec"]["epochs"], "3");
}

}  // namespace
}  // namespace lathe
