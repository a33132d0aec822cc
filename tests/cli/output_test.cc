#include "cli/output.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/connection.h"
#include "cli/job_request.h"
#include "cli/progress.h"
#include "cli/terminal.h"
#include "cli/transfer.h"
#include "common/base/file.h"
#include "common/base/sha256.h"

namespace lathe::cli {
namespace {

using ::testing::HasSubstr;

v1::StepStats Step(int64_t step, int64_t all) {
  v1::StepStats stats;
  stats.set_step(step);
  stats.set_num_steps(all);
  stats.set_loss(2.131);
  stats.set_tokens_per_second(96.4);
  stats.mutable_remaining()->set_seconds(161);
  return stats;
}

TEST(ProgressLineTest, ShowsStepLossRateAndRemainingTimeWithinTheWidth) {
  const std::string line = ProgressLine(Step(12, 81), 80);
  EXPECT_THAT(line, HasSubstr("step 12/81"));
  EXPECT_THAT(line, HasSubstr("loss 2.131 | 96 tokens/s | 2:41 left"));
  EXPECT_LE(line.size(), 80U);
  EXPECT_LE(ProgressLine(Step(81, 81), 60).size(), 60U);
}

TEST(ProgressLineTest, NarrowTerminalsGetNoBar) {
  EXPECT_THAT(ProgressLine(Step(1, 2), 40), Not(HasSubstr("=")));
}

TEST(OutputTest, HumanUnitsAreReadable) {
  EXPECT_EQ(HumanSeconds(41.2), "41 s");
  EXPECT_EQ(HumanSeconds(125), "2:05");
  EXPECT_EQ(HumanSeconds(3723), "1:02:03");
  EXPECT_EQ(HumanSeconds(-1), "?");
}

TEST(OutputTest, WrapKeepsWordsAndLines) {
  EXPECT_EQ(Wrap("one two three\nfour", 8, "  "), "  one two\n  three\n  four\n");
}

// The contract: 0 done, 1 failed, 2 usage, 3 cannot be reached, 4 refused.
TEST(ExitCodeTest, TellsWhoSaidNo) {
  EXPECT_EQ(ExitCode(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCode(absl::InternalError("disk")), 1);
  EXPECT_EQ(ExitCode(absl::InvalidArgumentError("bad flag")), 2);
  EXPECT_EQ(ExitCode(FromService({grpc::StatusCode::UNAVAILABLE, "failed to connect"})), 3);
  EXPECT_EQ(ExitCode(FromService({grpc::StatusCode::UNAVAILABLE, "waits: 0 slots free"})), 4);
  EXPECT_EQ(ExitCode(FromService({grpc::StatusCode::NOT_FOUND, "job"})), 4);
  EXPECT_EQ(ExitCode(FromService({grpc::StatusCode::INVALID_ARGUMENT, "job"})), 4);
}

TEST(ApplySettingsTest, RefusesWhatIsNotKeyAndValue) {
  JobSpec spec;
  EXPECT_TRUE(ApplySettings({"epochs=2", "lora.rank=4"}, spec).ok());
  EXPECT_EQ(spec.lora.rank, 4);
  EXPECT_THAT(std::string(ApplySettings({"epochs"}, spec).message()),
              HasSubstr("must be key=value"));
}

TEST(TransferTest, DescribesAFileByHashAndSize) {
  const auto temp = TempFolder::Make("cli_test");
  ASSERT_TRUE(WriteFileAtomically(temp->path() / "a", "abc").ok());
  const auto blob = DescribeFile(temp->path() / "a");
  ASSERT_TRUE(blob.ok());
  EXPECT_EQ(blob->size(), 3);
  EXPECT_EQ(blob->sha256(), Sha256Hex("abc"));
  EXPECT_EQ(DescribeFile(temp->path() / "b").status().code(), absl::StatusCode::kNotFound);
}

TEST(TransferTest, ModelFilesAreTheKnownOnesOfAFolder) {
  const auto temp = TempFolder::Make("cli_test");
  EXPECT_FALSE(ModelFiles(temp->path()).ok());
  for (const char* name : {"config.json", "model.safetensors", "pytorch_model.bin", "notes.txt"}) {
    ASSERT_TRUE(WriteFileAtomically(temp->path() / name, "x").ok());
  }
  const auto files = ModelFiles(temp->path());
  ASSERT_TRUE(files.ok());
  EXPECT_EQ(files->size(), 2U);
}

}  // namespace
}  // namespace lathe::cli
