#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/file.h"
#include "worker/engine/dist/communicator.h"

namespace lathe {

struct GlooOptions {
  int rank = 0;
  int size = 1;
  // Where rank 0 listens. IPv4.
  std::string host = "127.0.0.1";
  // The address of this rank's own interface, which carries the tensors; empty: `host`, as on one
  // machine. IPv4.
  std::string own_host;
  int port = 0;
  // Rank 0 only: the socket, already bound to host:port. A store that binds by itself would listen
  // on all interfaces.
  UniqueFd listen_fd;
  // Part of every key of the rendezvous: a process of an older attempt never meets one of a newer.
  int64_t attempt = 1;
  // Until all ranks have joined: other hosts may still fetch the model. Who started the ranks ends
  // them when one has failed.
  absl::Duration rendezvous_timeout = absl::Minutes(15);
  // Of one collective. Long: a peer that died is noticed at once by its broken connection, this one
  // is for a peer that lives and hangs.
  absl::Duration collective_timeout = absl::Minutes(30);

  absl::Status Validate() const;
};

// Joins the group over TCP with Gloo; returns when all ranks are connected with each other. The
// rendezvous store, which knows no password, is closed by then; what stays open is bound to
// `own_host`.
// Unavailable: not all ranks came, or one left.
absl::StatusOr<std::unique_ptr<Communicator>> JoinGlooGroup(GlooOptions options);

struct BoundSocket {
  UniqueFd fd;
  int port = 0;
};

// A TCP socket bound to a free port of an IPv4 address, for GlooOptions::listen_fd.
absl::StatusOr<BoundSocket> BindSocket(const std::string& host);
// The same of 127.0.0.1.
absl::StatusOr<BoundSocket> BindLoopback();

}  // namespace lathe
