#pragma once

#include "absl/status/statusor.h"
#include "common/base/file.h"
#include "lathe/internal/v1/child.pb.h"

namespace lathe::agent {

// Where the ranks of a training meet.
struct RendezvousSocket {
  UniqueFd fd;  // Listening.
  lathe::internal::v1::Rendezvous address;
};

// Listens on 127.0.0.1 at a free port. The agent binds and not the trainer, because c10d's own
// server would listen on every interface.
absl::StatusOr<RendezvousSocket> BindRendezvous();

}  // namespace lathe::agent
