#include "common/spec_proto/job_spec_proto.h"

#include <gtest/gtest.h>

#include "common/spec/field.h"

namespace lathe {
namespace {

// A value that differs from the field's default.
FieldValue Other(const FieldValue& value) {
  if (const auto* number = std::get_if<int64_t>(&value)) return *number + 7;
  if (const auto* real = std::get_if<double>(&value)) return *real + 0.25;
  if (const auto* flag = std::get_if<bool>(&value)) return !*flag;
  if (std::holds_alternative<std::string>(value)) return std::string("other");
  return std::vector<std::string>{"q_proj", "v_proj"};
}

TEST(JobSpecProtoTest, EveryFieldSurvivesTheRoundTrip) {
  JobSpec spec;
  for (const Field& field : JobFields()) field.set(spec, Other(field.get(spec)));
  const auto back = FromProto(ToProto(spec));
  ASSERT_TRUE(back.ok()) << back.status();
  for (const Field& field : JobFields()) {
    EXPECT_EQ(FieldText(field, *back), FieldText(field, spec)) << field.key;
    EXPECT_NE(FieldText(field, *back), FieldText(field, JobSpec{})) << field.key;
  }
}

TEST(JobSpecProtoTest, AbsentFieldsKeepTheirDefaults) {
  v1::JobSpec proto;
  proto.set_model("m");
  const auto spec = FromProto(proto);
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->model, "m");
  EXPECT_EQ(spec->epochs, 3);
  EXPECT_EQ(spec->lora.target_modules, std::vector<std::string>{"all-linear"});
}

TEST(JobSpecProtoTest, AClientSendsOnlyWhatItsUserHasSet) {
  JobSpec spec;
  spec.model = "m";
  ASSERT_TRUE(SetJobField(spec, "lora.rank", "8").ok());  // The default, but written.
  const v1::JobSpec proto = GivenToProto(spec);
  EXPECT_EQ(proto.ShortDebugString(), "model: \"m\" lora { rank: 8 }");
  const auto back = FromProto(proto);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->given, (std::set<std::string>{"lora.rank", "model"}));
}

TEST(JobSpecProtoTest, TheProtoHasNoFieldThatTheListLacks) {
  const auto count = [](const auto* descriptor, const auto& self) -> int {
    int fields = 0;
    for (int i = 0; i < descriptor->field_count(); ++i) {
      const auto* message = descriptor->field(i)->message_type();
      fields += message == nullptr ? 1 : self(message, self);
    }
    return fields;
  };
  EXPECT_EQ(count(v1::JobSpec::descriptor(), count), static_cast<int>(JobFields().size()));
}

}  // namespace
}  // namespace lathe
