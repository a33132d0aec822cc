#include "worker/agent/rendezvous_socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>

namespace lathe::agent {

absl::StatusOr<RendezvousSocket> BindRendezvous() {
  RendezvousSocket made;
  made.fd = UniqueFd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!made.fd.valid()) return ErrnoToStatus(errno, "rendezvous socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* raw = reinterpret_cast<sockaddr*>(&address);
  if (bind(made.fd.get(), raw, size) != 0 || listen(made.fd.get(), SOMAXCONN) != 0 ||
      getsockname(made.fd.get(), raw, &size) != 0) {
    return ErrnoToStatus(errno, "rendezvous socket on 127.0.0.1");
  }
  made.address.set_host("127.0.0.1");
  made.address.set_port(ntohs(address.sin_port));
  return made;
}

}  // namespace lathe::agent
