#include "common/wire/child_channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "lathe/internal/v1/child.pb.h"

namespace lathe {
namespace {

using internal::v1::ChildMessage;

TEST(ChildChannelTest, MessagesArriveWholeAndInOrder) {
  auto pair = ChildChannel::MakePair();
  ASSERT_TRUE(pair.ok());
  ChildChannel parent(std::move(pair->parent));
  ChildChannel child(std::move(pair->child));
  for (int i = 0; i < 3; ++i) {
    ChildMessage message;
    message.mutable_phase()->set_counter(i);
    ASSERT_TRUE(child.Send(message).ok());
  }
  for (int i = 0; i < 3; ++i) {
    ChildMessage message;
    ASSERT_TRUE(parent.Receive(message).ok());
    EXPECT_EQ(message.phase().counter(), i);
  }
}

TEST(ChildChannelTest, AClosedEndIsToldApartFromACutMessage) {
  auto pair = ChildChannel::MakePair();
  ChildChannel parent(std::move(pair->parent));
  ChildMessage message;
  ASSERT_EQ(send(pair->child.get(), "\x05\x00\x00\x00xx", 6, 0), 6);
  pair->child.Reset();
  EXPECT_EQ(parent.Receive(message).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(parent.Receive(message).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(parent.Send(message).code(), absl::StatusCode::kUnavailable);
}

TEST(ChildChannelTest, AnAnnouncedLengthOverTheLimitIsRefusedBeforeAllocation) {
  auto pair = ChildChannel::MakePair();
  ChildChannel parent(std::move(pair->parent));
  ASSERT_EQ(send(pair->child.get(), "\xff\xff\xff\xff", 4, 0), 4);
  ChildMessage message;
  EXPECT_EQ(parent.Receive(message).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace lathe
