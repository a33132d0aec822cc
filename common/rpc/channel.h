#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/rpc/token.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace lathe {

inline constexpr int kMaxMessageBytes = 4 << 20;  // Both directions.
inline constexpr int kMaxChunkBytes = 1 << 20;    // Of the bytes that streams carry.

// How often a client pings an idle connection with a call in flight. server.h lets it.
inline constexpr absl::Duration kKeepaliveInterval = absl::Seconds(20);

// A channel without encryption to a loopback address. Does not connect yet. InvalidArgument: not
// on loopback. Proxies from the environment are not used. `max_pause`: the longest between two
// attempts to connect.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(
    absl::string_view address, absl::Duration max_pause = absl::Seconds(2));

// Adds the token and the deadline; absl::InfiniteDuration() (streams only) sets none.
void Prepare(grpc::ClientContext& context, const Token& token, absl::Duration deadline);

}  // namespace lathe
