#include "common/rpc/channel.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "common/base/status.h"
#include "common/rpc/loopback.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace lathe {

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(absl::string_view address,
                                                           absl::Duration max_pause) {
  LATHE_RETURN_IF_ERROR(ValidateLoopback(address));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS,
                   static_cast<int>(absl::ToInt64Milliseconds(kKeepaliveInterval)));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  // A coordinator that restarts on this machine is back soon: look often.
  const int most = std::max(1, static_cast<int>(absl::ToInt64Milliseconds(max_pause)));
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, std::min(100, most));
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, std::min(1000, most));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, most);
  return grpc::CreateCustomChannel(std::string(address), grpc::InsecureChannelCredentials(),
                                   arguments);
}

void Prepare(grpc::ClientContext& context, const Token& token, absl::Duration deadline) {
  context.AddMetadata("authorization", token.AuthorizationValue());
  if (deadline == absl::InfiniteDuration()) return;
  context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(deadline));
}

}  // namespace lathe
