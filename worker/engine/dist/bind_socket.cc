#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "worker/engine/dist/communicator_gloo.h"

namespace lathe {

absl::StatusOr<BoundSocket> BindSocket(const std::string& host) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  if (inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("rendezvous: host is '", host, "'; must be an IPv4 address, as 127.0.0.1"));
  }
  BoundSocket bound{.fd = UniqueFd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))};
  if (!bound.fd.valid()) return ErrnoToStatus(errno, "rendezvous: socket");
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(bound.fd.get(), generic, size) != 0 ||
      getsockname(bound.fd.get(), generic, &size) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("rendezvous: bind ", host));
  }
  bound.port = ntohs(address.sin_port);
  return bound;
}

absl::StatusOr<BoundSocket> BindLoopback() { return BindSocket("127.0.0.1"); }

}  // namespace lathe
