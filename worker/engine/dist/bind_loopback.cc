#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>

#include "worker/engine/dist/communicator_gloo.h"

namespace lathe {

absl::StatusOr<BoundSocket> BindLoopback() {
  BoundSocket bound{.fd = UniqueFd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))};
  if (!bound.fd.valid()) return ErrnoToStatus(errno, "rendezvous: socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(bound.fd.get(), generic, size) != 0 ||
      getsockname(bound.fd.get(), generic, &size) != 0) {
    return ErrnoToStatus(errno, "rendezvous: bind 127.0.0.1");
  }
  bound.port = ntohs(address.sin_port);
  return bound;
}

}  // namespace lathe
