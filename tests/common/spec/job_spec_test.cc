#include "common/spec/job_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "common/spec/field.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;

JobSpec Minimal() {
  JobSpec spec;
  spec.model = "base";
  spec.dataset = "rows";
  return spec;
}

// The contract with users: a changed default must be noticed here.
TEST(JobSpecTest, DefaultsAreTheDocumentedOnes) {
  const std::map<std::string, std::string> expected = {{"name", ""},
                                                       {"model", ""},
                                                       {"dataset", ""},
                                                       {"method", "sft"},
                                                       {"device", "cpu"},
                                                       {"base_dtype", ""},
                                                       {"lora.rank", "8"},
                                                       {"lora.alpha", "16"},
                                                       {"lora.rslora", "false"},
                                                       {"lora.dora", "false"},
                                                       {"lora.target_modules", "[all-linear]"},
                                                       {"lora.dropout", "0"},
                                                       {"parent_model", ""},
                                                       {"max_length", "2048"},
                                                       {"on_too_long", "truncate_answer"},
                                                       {"validation_fraction", "0.1"},
                                                       {"seed", "1"},
                                                       {"epochs", "3"},
                                                       {"batch_size", "8"},
                                                       {"micro_batch_tokens", "0"},
                                                       {"activation_checkpointing", "false"},
                                                       {"learning_rate", "0"},
                                                       {"schedule", "cosine"},
                                                       {"warmup_ratio", "0.03"},
                                                       {"max_grad_norm", "1"},
                                                       {"weight_decay", "0"},
                                                       {"beta1", "0.9"},
                                                       {"beta2", "0.999"},
                                                       {"eps", "1e-08"},
                                                       {"ranks", "1"},
                                                       {"min_ranks", "0"},
                                                       {"reduction", ""},
                                                       {"checkpoint.every_steps", "100"},
                                                       {"max_restarts", "5"},
                                                       {"priority", "0"}};
  std::map<std::string, std::string> actual;
  for (const Field& field : JobFields())
    actual[std::string(field.key)] = FieldText(field, JobSpec{});
  EXPECT_EQ(actual, expected);
  EXPECT_EQ(Resolve(Minimal(), "x").learning_rate, 3e-4);
  JobSpec full = Minimal();
  full.method = "full";
  EXPECT_EQ(Resolve(full, "x").learning_rate, 2e-5);
}

TEST(JobSpecTest, ThePageNamesEveryField) {
  std::ostringstream page;
  page << std::ifstream("docs/job-file.md").rdbuf();
  for (const Field& field : JobFields()) {
    EXPECT_THAT(page.str(), HasSubstr("`" + std::string(field.key) + "`"));
  }
}

TEST(JobSpecTest, EveryFieldCanBeSetFromItsOwnText) {
  for (const Field& field : JobFields()) {
    JobSpec spec = Minimal();
    EXPECT_TRUE(SetJobField(spec, field.key, FieldText(field, Minimal())).ok()) << field.key;
    EXPECT_EQ(FieldText(field, spec), FieldText(field, Minimal())) << field.key;
  }
}

TEST(JobSpecTest, UnknownKeyNamesTheNearestKnownOne) {
  JobSpec spec;
  const absl::Status status = SetJobField(spec, "lora.rnk", "4");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("did you mean 'lora.rank'?"));
}

TEST(JobSpecTest, WrongTypeIsRefusedWithTheThingAndWhatItGot) {
  JobSpec spec;
  EXPECT_EQ(SetJobField(spec, "epochs", "three").message(),
            "epochs is 'three'; must be a whole number");
  EXPECT_EQ(SetJobField(spec, "lora.rslora", "yes").message(),
            "lora.rslora is 'yes'; must be true or false");
}

TEST(JobSpecTest, OutOfRangeValuesAreRefusedByName) {
  const std::map<std::string, std::string> bad = {{"lora.rank", "0"},
                                                  {"lora.alpha", "nan"},
                                                  {"lora.dropout", "1"},
                                                  {"max_length", "1"},
                                                  {"on_too_long", "x"},
                                                  {"validation_fraction", "0.9"},
                                                  {"epochs", "0"},
                                                  {"batch_size", "0"},
                                                  {"micro_batch_tokens", "1"},
                                                  {"learning_rate", "-1"},
                                                  {"schedule", "step"},
                                                  {"warmup_ratio", "2"},
                                                  {"max_grad_norm", "-1"},
                                                  {"weight_decay", "2"},
                                                  {"beta1", "1"},
                                                  {"beta2", "1"},
                                                  {"eps", "0"},
                                                  {"ranks", "0"},
                                                  {"min_ranks", "2"},
                                                  {"reduction", "sum"},
                                                  {"max_restarts", "-1"},
                                                  {"priority", "101"},
                                                  {"checkpoint.every_steps", "0"},
                                                  {"model", "a/b"},
                                                  {"dataset", ""},
                                                  {"name", "../x"},
                                                  {"method", "dpo"},
                                                  {"base_dtype", "f16"},
                                                  {"device", "tpu"}};
  for (const auto& [key, text] : bad) {
    JobSpec spec = Minimal();
    ASSERT_TRUE(SetJobField(spec, key, text).ok()) << key;
    const absl::Status status = Validate(spec);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key;
    EXPECT_THAT(std::string(status.message()), HasSubstr(key));
  }
  EXPECT_TRUE(Validate(Minimal()).ok());
}

TEST(JobSpecTest, MethodAndBaseTypeTogetherSayHowTheBaseIsHeld) {
  JobSpec spec;
  EXPECT_EQ(BaseStorageOf(spec), "f32");
  spec.base_dtype = "bf16";
  EXPECT_EQ(BaseStorageOf(spec), "bf16");
  spec.method = "qlora";
  EXPECT_EQ(BaseStorageOf(spec), "nf4+bf16");
  spec.base_dtype = "f32";
  EXPECT_EQ(BaseStorageOf(spec), "nf4");
}

TEST(JobSpecTest, FullTuningIsOfTheCpuIn32Bits) {
  JobSpec spec = Minimal();
  spec.method = "full";
  EXPECT_TRUE(Validate(spec).ok());
  EXPECT_EQ(Resolve(spec, "x").base_dtype, "f32");
  spec.device = "cuda";
  EXPECT_EQ(Validate(spec).message(), "device is 'cuda'; with method full it must be cpu");
  spec.device = "cpu";
  spec.base_dtype = "bf16";
  EXPECT_EQ(Validate(spec).message(), "base_dtype is 'bf16'; with method full it must be f32");
}

TEST(JobSpecTest, TheBaseIsHeldInBf16OnAGpuUnlessTheJobSaysOtherwise) {
  JobSpec spec = Minimal();
  EXPECT_EQ(Resolve(spec, "x").base_dtype, "f32");
  spec.device = "cuda";
  EXPECT_EQ(Resolve(spec, "x").base_dtype, "bf16");
  spec.base_dtype = "f32";
  EXPECT_EQ(Resolve(spec, "x").base_dtype, "f32");
}

TEST(JobSpecTest, AnAdapterOnTheCpuIsReducedExactlyUnlessTheJobSaysOtherwise) {
  JobSpec spec = Minimal();
  EXPECT_EQ(Resolve(spec, "x").reduction, "exact");
  spec.method = "qlora";
  EXPECT_EQ(Resolve(spec, "x").reduction, "exact");
  spec.device = "cuda";
  EXPECT_EQ(Resolve(spec, "x").reduction, "fast");
  spec.device = "cpu";
  spec.method = "full";
  EXPECT_EQ(Resolve(spec, "x").reduction, "fast");
  spec.reduction = "exact";
  EXPECT_TRUE(Validate(spec).ok());
  EXPECT_EQ(Resolve(spec, "x").reduction, "exact");
}

TEST(JobSpecTest, AJobFromBeforeTheSettingGoesOnAsItBegan) {
  EXPECT_FALSE(IsExactReduction(JobSpec()));
}

TEST(JobSpecTest, ResolvedSpecNeverDependsOnRanks) {
  JobSpec one = Minimal();
  JobSpec four = Minimal();
  four.ranks = 4;
  EXPECT_EQ(Resolve(one, "x").micro_batch_tokens, Resolve(four, "x").micro_batch_tokens);
}

}  // namespace
}  // namespace lathe
