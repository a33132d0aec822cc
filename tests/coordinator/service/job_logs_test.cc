#include "coordinator/service/job_logs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;

const JobId kJob("job-1");

TEST(JobLogsTest, LinesCarryTheirSourceAndAreReadFromAnOffset) {
  const TempFolder folder = *TempFolder::Make("logs");
  JobLogs logs(folder.path(), 1 << 20);
  EXPECT_EQ(*logs.Read(kJob, 0, 100), "");
  ASSERT_TRUE(logs.Append(kJob, "a", "one\n\ntwo").ok());
  EXPECT_EQ(*logs.Read(kJob, 0, 100), "a: one\na: two\n");
  EXPECT_EQ(*logs.Read(kJob, 7, 100), "a: two\n");
  EXPECT_EQ(*logs.Read(kJob, 14, 100), "");
}

TEST(JobLogsTest, WhatGoesBeyondTheLimitIsDroppedAndSaidOnce) {
  const TempFolder folder = *TempFolder::Make("logs");
  JobLogs logs(folder.path(), 100);
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(logs.Append(kJob, "a", absl::StrCat("line ", i)).ok());
  const std::string text = *logs.Read(kJob, 0, 1000);
  EXPECT_LT(text.size(), 200U);
  EXPECT_THAT(text, HasSubstr("a: line 0\n"));
  EXPECT_EQ(text.find("the log is full"), text.rfind("the log is full"));
  EXPECT_NE(text.find("the log is full"), std::string::npos);
  EXPECT_EQ(text.find("a: line 49"), std::string::npos);
}

TEST(JobLogsTest, ALongLineIsCut) {
  const TempFolder folder = *TempFolder::Make("logs");
  JobLogs logs(folder.path(), 1 << 20);
  ASSERT_TRUE(logs.Append(kJob, "a", std::string(100000, 'x')).ok());
  EXPECT_EQ(logs.Read(kJob, 0, 10)->size(), JobLogs::kMaxLineBytes + 4);
}

}  // namespace
}  // namespace lathe
