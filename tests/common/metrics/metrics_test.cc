#include "common/metrics/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/testing/http_get.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(MetricRegistryTest, ASeriesIsScrapedAndGoesWithItsJob) {
  MetricRegistry registry;
  const Metric loss = registry.Gauge("lathe_job_loss", "Loss.");
  const Metric steps = registry.Counter("lathe_steps_total", "Steps.");
  loss.Set({{"job", "a"}}, 1.5);
  loss.Set({{"job", "b"}}, 2.5);
  steps.Add({}, 3);
  EXPECT_THAT(registry.Scrape(), HasSubstr("lathe_job_loss{job=\"a\"} 1.5"));
  EXPECT_THAT(registry.Scrape(), HasSubstr("lathe_steps_total 3"));
  registry.RemoveSeries("job", "a");
  EXPECT_THAT(registry.Scrape(), Not(HasSubstr("job=\"a\"")));
  EXPECT_THAT(registry.Scrape(), HasSubstr("lathe_job_loss{job=\"b\"} 2.5"));
  loss.Set({{"job", "a"}}, 3.5);
  EXPECT_THAT(registry.Scrape(), HasSubstr("lathe_job_loss{job=\"a\"} 3.5"));
}

TEST(MetricRegistryTest, AHistogramCounts) {
  MetricRegistry registry;
  registry.Histogram("lathe_wait_seconds", "Wait.", {1, 10}).Observe({}, 5);
  EXPECT_THAT(registry.Scrape(), HasSubstr("lathe_wait_seconds_bucket{le=\"10\"} 1"));
  EXPECT_THAT(registry.Scrape(), HasSubstr("lathe_wait_seconds_count 1"));
}

TEST(ExposerTest, ServesOnlyWhoKnowsThePassword) {
  MetricRegistry registry;
  registry.Counter("lathe_x_total", "X.").Add({});
  const auto exposer = Exposer::Start(registry, "127.0.0.1:0", "secret");
  ASSERT_TRUE(exposer.ok()) << exposer.status();
  EXPECT_THAT(testing::GetMetrics((*exposer)->port(), "lathe:secret"),
              HasSubstr("lathe_x_total 1"));
  EXPECT_THAT(testing::GetMetrics((*exposer)->port(), "lathe:wrong"), HasSubstr("401"));
  EXPECT_THAT(testing::GetMetrics((*exposer)->port(), ""), HasSubstr("401"));
}

TEST(ExposerTest, RefusesOtherAddressesAndAPortInUse) {
  MetricRegistry registry;
  EXPECT_EQ(Exposer::Start(registry, "0.0.0.0:0", "p").status().code(),
            absl::StatusCode::kInvalidArgument);
  const auto first = Exposer::Start(registry, "127.0.0.1:0", "p");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(
      Exposer::Start(registry, absl::StrCat("127.0.0.1:", (*first)->port()), "p").status().code(),
      absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace lathe
