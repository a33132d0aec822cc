#include "common/spec/given.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace lathe {
namespace {

using ::testing::HasSubstr;

JobSpec SpecWith(const std::string& key, const std::string& text) {
  JobSpec spec;
  spec.parent_model = "first";
  EXPECT_TRUE(SetJobField(spec, key, text).ok());
  return spec;
}

TEST(GivenTest, AValueIsGivenEvenIfItIsTheDefault) {
  const Field& rank = *FindJobField("lora.rank");
  EXPECT_FALSE(IsGiven(rank, JobSpec()));
  EXPECT_TRUE(IsGiven(rank, SpecWith("lora.rank", "8")));
  JobSpec assigned;
  assigned.lora.rank = 4;
  EXPECT_TRUE(IsGiven(rank, assigned));
}

TEST(GivenTest, FullTuningRefusesEveryLoraSetting) {
  for (const Field& field : JobFields()) {
    JobSpec spec = SpecWith(std::string(field.key), FieldText(field, JobSpec()));
    spec.method = "full";
    const bool refused = field.key.substr(0, 5) == "lora.";
    EXPECT_EQ(CheckGiven(spec).ok(), !refused) << field.key;
    spec.method = "sft";
    EXPECT_TRUE(CheckGiven(spec).ok()) << field.key;
  }
  JobSpec spec = SpecWith("lora.rank", "16");
  spec.method = "full";
  EXPECT_EQ(CheckGiven(spec).message(),
            "lora.rank is 16; method full trains every parameter and has no lora settings: drop "
            "it, or set method sft");
}

TEST(GivenTest, FullTuningGoesOnFromNoAdapter) {
  JobSpec spec = SpecWith("method", "full");
  spec.model = spec.dataset = "x";
  EXPECT_THAT(std::string(Validate(spec).message()), HasSubstr("parent_model is 'first'; method"));
}

TEST(GivenTest, FullTuningIsInF32) {
  JobSpec spec;
  spec.model = spec.dataset = "x";
  spec.method = "full";
  ASSERT_TRUE(Validate(spec).ok()) << Validate(spec);
  spec.base_dtype = "bf16";
  EXPECT_EQ(Validate(spec).message(), "base_dtype is 'bf16'; with method full it must be f32");
}

TEST(GivenTest, AJobTakesOverWhatItsParentWasMadeWith) {
  const LoraSpec parent = {.rank = 16,
                           .alpha = 4,
                           .rslora = true,
                           .dora = true,
                           .target_modules = {"q_proj"},
                           .dropout = 0.1};
  JobSpec spec = SpecWith("lora.rank", "16");
  ASSERT_TRUE(TakeOverLora(parent, spec).ok());
  EXPECT_EQ(spec.lora.rank, 16);
  EXPECT_EQ(spec.lora.alpha, 4);
  EXPECT_TRUE(spec.lora.rslora);
  EXPECT_TRUE(spec.lora.dora);
  EXPECT_EQ(spec.lora.target_modules, std::vector<std::string>{"q_proj"});
  EXPECT_EQ(spec.lora.dropout, 0.1);
}

TEST(GivenTest, DropoutMayBeSetAnew) {
  JobSpec spec = SpecWith("lora.dropout", "0");
  ASSERT_TRUE(TakeOverLora({.dropout = 0.1}, spec).ok());
  EXPECT_EQ(spec.lora.dropout, 0);
}

TEST(GivenTest, AContradictionNamesBothValues) {
  JobSpec spec = SpecWith("lora.rank", "8");  // The default, but written.
  EXPECT_EQ(TakeOverLora({.rank = 16}, spec).message(),
            "lora.rank is 8; parent_model 'first' has 16, which a job that goes on from it takes "
            "over: drop the setting");
  spec = SpecWith("lora.target_modules", "q_proj,v_proj");
  EXPECT_THAT(std::string(TakeOverLora({}, spec).message()),
              HasSubstr("is [q_proj, v_proj]; parent_model 'first' has [all-linear]"));
}

}  // namespace
}  // namespace lathe
