#include "worker/agent/metrics_probe.h"

#include <gtest/gtest.h>

#include <regex>
#include <set>

#include "common/base/file.h"
#include "gmock/gmock.h"

namespace lathe::agent {
namespace {

using ::testing::HasSubstr;

std::set<std::string> Matches(const std::string& text, const std::string& pattern) {
  std::set<std::string> names;
  const std::regex regex(pattern, std::regex::multiline);
  for (std::sregex_iterator it(text.begin(), text.end(), regex), end; it != end; ++it) {
    names.insert((*it)[1]);
  }
  return names;
}

TEST(MetricsProbeTest, EveryMetricIsDocumentedAndEveryDocumentedOneIsThere) {
  MetricRegistry registry;
  MetricsProbe probe(registry, "1.2.3");
  probe.SetSlots(2, 1);
  probe.OnAssignmentStarted("train");
  probe.OnAssignmentEnded("train", "ok");
  v1::StepStats step;
  step.mutable_step_time()->set_nanos(5'000'000);
  probe.OnStep(step);
  const std::string scrape = registry.Scrape();
  const absl::StatusOr<std::string> page = ReadFile("docs/metrics.md");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(Matches(scrape, R"(^# TYPE (lathe_worker_\w+))"),
            Matches(*page, R"(^\| `(lathe_worker_\w+))"));
  EXPECT_THAT(scrape, HasSubstr("lathe_worker_step_seconds_count 1"));
  EXPECT_THAT(scrape, HasSubstr("lathe_build_info{program=\"lathe-worker\",version=\"1.2.3\"} 1"));
}

}  // namespace
}  // namespace lathe::agent
