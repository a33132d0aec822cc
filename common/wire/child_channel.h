#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file.h"
#include "common/base/mutex.h"
#include "google/protobuf/message_lite.h"

// Length-delimited protobuf over a stream socket: how an agent and its child processes talk.
// proto/lathe/internal/v1/child.proto.

namespace lathe {

inline constexpr int kChildChannelFd = 3;  // The child's end.
inline constexpr size_t kMaxWireMessageBytes = 16 << 20;

// Sends from any thread; receives from one. Owns its descriptor.
class ChildChannel {
 public:
  explicit ChildChannel(UniqueFd fd) : fd_(std::move(fd)) {}

  // Two connected ends, both close-on-exec.
  struct Pair;
  static absl::StatusOr<Pair> MakePair();

  // Unavailable: the other end is gone. InvalidArgument: over kMaxWireMessageBytes. Never raises
  // SIGPIPE.
  absl::Status Send(const google::protobuf::MessageLite& message);

  // Blocks. OutOfRange: the other end closed between two messages. DataLoss: it closed within one,
  // or sent garbage.
  absl::Status Receive(google::protobuf::MessageLite& message);

  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
  Mutex send_mutex_;  // Held across the write: messages must not interleave.
};

struct ChildChannel::Pair {
  UniqueFd parent;
  UniqueFd child;
};

}  // namespace lathe
