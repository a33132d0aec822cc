#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

// The one place where absl and gRPC codes meet: they are numerically equal.

namespace lathe {

// Line breaks become spaces and the message is cut at 2 KiB: it travels in an HTTP/2 header, whose
// size clients limit.
grpc::Status ToGrpc(const absl::Status& status);

absl::Status FromGrpc(const grpc::Status& status);

}  // namespace lathe
