#pragma once

#include "grpcpp/server_builder.h"

namespace lathe {

// Limits of every server of ours: message and metadata size, streams per connection, handshake
// time, and pings as often as channel.h sends them.
void ApplyServerLimits(grpc::ServerBuilder& builder);

}  // namespace lathe
