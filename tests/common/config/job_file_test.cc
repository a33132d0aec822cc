#include "common/config/job_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lathe {
namespace {

using ::testing::HasSubstr;

TEST(JobFileTest, ReadsNestedAndDottedKeys) {
  const auto spec = ParseJobFile(
      "model: base\ndataset: rows\nlora:\n  rank: 4\n  target_modules: [q_proj, "
      "v_proj]\nlora.alpha: 32\n");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->lora.rank, 4);
  EXPECT_EQ(spec->lora.alpha, 32);
  EXPECT_EQ(spec->lora.target_modules, (std::vector<std::string>{"q_proj", "v_proj"}));
}

TEST(JobFileTest, BadFilesAreRefusedWithTheLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"model: a\nlerning_rate: 1\n",
       "line 2: job has unknown key 'lerning_rate'; did you mean 'learning_rate'?"},
      {"model: a\nepochs: x\n", "line 2: epochs is 'x'; must be a whole number"},
      {"model: a\nmodel: b\n", "line 2: key 'model' is there twice"},
      {"- a\n", "line 1: expected 'key: value' lines"},
      {"", "job file is empty"},
      {"a: [", "line"},
  };
  for (const auto& [text, expected] : cases) {
    const auto spec = ParseJobFile(text);
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr(expected)) << text;
  }
}

TEST(JobFileTest, DeepNestingIsRefused) {
  std::string text;
  for (int i = 0; i < 64; ++i) text += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  EXPECT_EQ(ParseJobFile(text).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace lathe
