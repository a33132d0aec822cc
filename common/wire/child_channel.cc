#include "common/wire/child_channel.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include "absl/strings/string_view.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace lathe {
namespace {

absl::Status SendAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0)
      return absl::UnavailableError(ErrnoToStatus(errno, "child channel: send").message());
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return absl::OkStatus();
}

// The number of bytes read: fewer than `size` only at the end of the stream.
absl::StatusOr<size_t> ReadUpTo(int fd, char* to, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = recv(fd, to + done, size - done, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == ECONNRESET) break;
    if (got < 0) return ErrnoToStatus(errno, "child channel: receive");
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

}  // namespace

absl::StatusOr<ChildChannel::Pair> ChildChannel::MakePair() {
  std::array<int, 2> fds{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) != 0) {
    return ErrnoToStatus(errno, "child channel: socketpair");
  }
  return Pair{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

absl::Status ChildChannel::Send(const google::protobuf::MessageLite& message) {
  std::string bytes(4, '\0');
  message.AppendToString(&bytes);
  const size_t size = bytes.size() - 4;
  if (size > kMaxWireMessageBytes) {
    return absl::InvalidArgumentError(absl::StrCat("child channel: a message has ", size,
                                                   " bytes; at most ", kMaxWireMessageBytes,
                                                   " are allowed"));
  }
  for (size_t i = 0; i < 4; ++i) bytes[i] = static_cast<char>((size >> (8 * i)) & 0xff);
  const MutexLock lock(send_mutex_);
  return SendAll(fd_.get(), bytes);
}

absl::Status ChildChannel::Receive(google::protobuf::MessageLite& message) {
  std::array<char, 4> header{};
  LATHE_ASSIGN_OR_RETURN(const size_t header_bytes, ReadUpTo(fd_.get(), header.data(), 4));
  if (header_bytes == 0) return absl::OutOfRangeError("child channel: the other end closed");
  if (header_bytes < 4) return absl::DataLossError("child channel: closed within a message");
  size_t size = 0;
  for (size_t i = 0; i < 4; ++i)
    size |= static_cast<size_t>(static_cast<uint8_t>(header[i])) << (8 * i);
  if (size > kMaxWireMessageBytes) {
    return absl::DataLossError(
        absl::StrCat("child channel: announces ", size, " bytes; at most ", kMaxWireMessageBytes));
  }
  std::string bytes(size, '\0');
  LATHE_ASSIGN_OR_RETURN(const size_t got, ReadUpTo(fd_.get(), bytes.data(), size));
  if (got < size) return absl::DataLossError("child channel: closed within a message");
  if (!message.ParseFromString(bytes))
    return absl::DataLossError("child channel: cannot parse a message");
  return absl::OkStatus();
}

}  // namespace lathe
