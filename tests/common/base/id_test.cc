#include "common/base/id.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace lathe {
namespace {

using ::testing::HasSubstr;

TEST(IdTest, UlidsAreDistinctAndSafeInDnsNames) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string ulid = NewUlid();
    EXPECT_EQ(ulid.size(), 26U);
    EXPECT_EQ(ulid.find_first_not_of("0123456789abcdefghjkmnpqrstvwxyz"), std::string::npos);
    EXPECT_TRUE(seen.insert(ulid).second);
  }
}

TEST(IdTest, NewIdCarriesItsPrefix) {
  EXPECT_THAT(JobId::New().value(), testing::StartsWith("job-"));
}

TEST(IdTest, TokensHave256Bits) {
  EXPECT_EQ(NewToken().size(), 64U);
  EXPECT_NE(NewToken(), NewToken());
}

TEST(ValidateNameTest, AcceptsWhatMayBeAPathPartAndNamesWhatItRefuses) {
  EXPECT_TRUE(ValidateName("model", "smollm2-135m.v1_x").ok());
  for (const char* bad : {"", ".", "..", "-a", "A", "a/b", "a b", "ä"}) {
    EXPECT_EQ(ValidateName("model", bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_THAT(std::string(ValidateName("model", "a/b").message()), HasSubstr("model is 'a/b'"));
}

}  // namespace
}  // namespace lathe
