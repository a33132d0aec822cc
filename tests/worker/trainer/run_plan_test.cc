#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/config/job_file.h"
#include "common/spec/field.h"
#include "worker/trainer/run_command.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;

JobSpec Spec() {
  JobSpec spec;
  spec.model = "tests/data/tiny-llama";
  spec.dataset = "tests/data/tiny-llama/config.json";
  return spec;
}

TEST(PlanRunTest, TakesModelAndDatasetAsPaths) {
  const auto plan = PlanRun(Spec(), 3);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->model, "tests/data/tiny-llama");
  EXPECT_EQ(plan->dataset, "tests/data/tiny-llama/config.json");
  EXPECT_EQ(plan->spec.model, "tiny-llama");
  EXPECT_EQ(plan->spec.dataset, "config");
  EXPECT_EQ(plan->spec.ranks, 3);
  EXPECT_THAT(plan->spec.name, ::testing::StartsWith("config-tiny-llama-"));
  EXPECT_EQ(plan->spec.learning_rate, 3e-4);
}

TEST(PlanRunTest, NamesAPathThatIsNotThere) {
  JobSpec spec = Spec();
  spec.model = "smollm2";
  const absl::Status status = PlanRun(spec, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model is 'smollm2'"));
  spec.model.clear();
  EXPECT_EQ(PlanRun(spec, {}).status().message(),
            "job file has no 'model'; lathe-trainer run needs a path there");
}

TEST(PlanRunTest, TakesTheParentAsAPath) {
  JobSpec spec = Spec();
  spec.parent_model = "tests/data/tiny-adapter";
  const auto plan = PlanRun(spec, {});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->parent, "tests/data/tiny-adapter");
  EXPECT_EQ(plan->spec.parent_model, "tiny-adapter");
  spec.parent_model = "nowhere";
  EXPECT_THAT(std::string(PlanRun(spec, {}).status().message()),
              HasSubstr("parent_model is 'nowhere'"));
}

TEST(PlanRunTest, RefusesASettingThatTheMethodDoesNotHave) {
  JobSpec spec = Spec();
  spec.method = "full";
  EXPECT_EQ(PlanRun(spec, {})->spec.learning_rate, 2e-5);
  ASSERT_TRUE(SetJobField(spec, "lora.rank", "8").ok());
  EXPECT_THAT(std::string(PlanRun(spec, {}).status().message()), HasSubstr("lora.rank is 8"));
}

TEST(PlanRunTest, ChecksTheRangesOfTheJob) {
  EXPECT_THAT(std::string(PlanRun(Spec(), 0).status().message()), HasSubstr("ranks is 0"));
}

TEST(JobFileTextTest, ReadsBackWithoutLosingABit) {
  JobSpec spec = Spec();
  spec.name = "yes";
  spec.learning_rate = 0.1 + 0.2;
  spec.eps = 1e-30;
  spec.seed = INT64_MAX;
  spec.lora.rslora = true;
  spec.lora.target_modules = {"q_proj", "a # b: c"};
  const auto read = ParseJobFile(JobFileText(spec));
  ASSERT_TRUE(read.ok()) << read.status();
  for (const Field& field : JobFields()) {
    EXPECT_EQ(field.get(*read), field.get(spec)) << field.key;
  }
}

}  // namespace
}  // namespace lathe
