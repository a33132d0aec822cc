#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>

#include "common/base/file.h"
#include "common/base/id.h"
#include "common/rpc/channel.h"
#include "common/rpc/loopback.h"
#include "common/rpc/status.h"
#include "common/rpc/token.h"
#include "gmock/gmock.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;

TEST(StatusTest, CodesSurviveTheWireBothWays) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "rank is 3; at most 2");
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  }
  EXPECT_TRUE(FromGrpc(ToGrpc(absl::OkStatus())).ok());
}

TEST(StatusTest, AMessageIsOneLineThatFitsAHeader) {
  const grpc::Status status = ToGrpc(absl::InternalError("a\nb" + std::string(10000, 'x')));
  EXPECT_EQ(status.error_message().substr(0, 3), "a b");
  EXPECT_LE(status.error_message().size(), 2048u);
}

TEST(LoopbackTest, OnlyTheOwnMachineIsLoopback) {
  for (const char* good : {"127.0.0.1:1", "127.255.3.4:70", "[::1]:7070", "localhost:65535"}) {
    EXPECT_TRUE(ValidateLoopback(good).ok()) << good;
  }
  for (const char* bad : {"0.0.0.0:1", "10.0.0.1:1", "[::]:1", "example.com:1", "128.0.0.1:1",
                          "127.1:7", "127.0.0.1.evil.net:1", "[::ffff:10.0.0.1]:1"}) {
    EXPECT_THAT(ValidateLoopback(bad).message(), HasSubstr("loopback")) << bad;
  }
}

TEST(LoopbackTest, AMalformedAddressIsNamedWithTheFormThatIsAllowed) {
  for (const char* bad : {"", "127.0.0.1", ":70", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1",
                          "127.0.0.1:65536", "::1:7070"}) {
    EXPECT_EQ(ValidateLoopback(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(ValidateLoopback(bad).message(), HasSubstr(std::string("'") + bad + "'"));
  }
  EXPECT_EQ(ParseHostPort("[::1]:70")->host, "::1");
}

TEST(ChannelTest, RefusesAnAddressOffLoopbackBeforeAnyPacket) {
  EXPECT_EQ(MakeChannel("192.168.0.1:70").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(MakeChannel("127.0.0.1:70").ok());
}

class TokenFileTest : public ::testing::Test {
 protected:
  std::filesystem::path Write(absl::string_view text, unsigned mode = 0600) {
    const auto path = folder_.path() / "token";
    EXPECT_TRUE(WriteFileAtomically(path, text, mode).ok());
    return path;
  }
  TempFolder folder_ = *TempFolder::Make("token_test");
};

TEST_F(TokenFileTest, TheNewlineAtTheEndIsNotPartOfTheSecret) {
  const std::string secret = NewToken();
  const auto token = ReadTokenFile(Write(secret + "\n"));
  ASSERT_TRUE(token.ok()) << token.status();
  EXPECT_TRUE(token->Matches("Bearer " + secret));
  EXPECT_FALSE(token->Matches("Bearer " + NewToken()));
  EXPECT_FALSE(token->Matches(secret));
}

TEST_F(TokenFileTest, AnEmptyTokenMatchesNothing) {
  EXPECT_FALSE(Token().Matches("Bearer "));
  EXPECT_FALSE(Token().Matches(""));
}

TEST_F(TokenFileTest, AFileOpenToOthersIsRefusedWithTheCommandThatFixesIt) {
  for (const unsigned mode : {0644u, 0640u, 0604u, 0620u}) {
    const auto path = Write(NewToken(), mode);
    EXPECT_THAT(ReadTokenFile(path).status().message(), HasSubstr("chmod 600 " + path.string()));
  }
}

TEST_F(TokenFileTest, OnlyARegularFileWithOneGoodLineIsTaken) {
  EXPECT_EQ(ReadTokenFile(folder_.path() / "none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(ReadTokenFile(folder_.path()).ok());
  const auto pipe = folder_.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(ReadTokenFile(pipe).status().message(), HasSubstr("regular file"));
  for (const std::string& bad : {std::string(), std::string("short"), std::string(20, ' '),
                                 NewToken() + "\n" + NewToken(), std::string(300, 'a')}) {
    EXPECT_FALSE(ReadTokenFile(Write(bad)).ok()) << bad;
  }
}

}  // namespace
}  // namespace lathe
