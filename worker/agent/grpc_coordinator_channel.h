#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/rpc/token.h"
#include "lathe/internal/v1/agent.grpc.pb.h"
#include "worker/agent/coordinator_channel.h"

namespace lathe::agent {

// AgentService over a loopback channel with the workers' token.
class GrpcCoordinatorChannel final : public CoordinatorChannel {
 public:
  // InvalidArgument: not a loopback address. Does not connect yet.
  // `max_pause`: the longest between two attempts to connect.
  static absl::StatusOr<std::unique_ptr<GrpcCoordinatorChannel>> Make(
      absl::string_view address, Token token, absl::Duration max_pause = absl::Seconds(2));

  std::unique_ptr<Session> Connect() override;
  std::unique_ptr<TextStream> OpenText() override;
  absl::Status DownloadBlob(const std::string& sha256, int64_t offset, Sink sink,
                            const std::stop_token& stop) override;
  absl::StatusOr<pb::GetBlobStatusResponse> GetBlobStatus(const std::string& sha256,
                                                          const std::stop_token& stop) override;
  absl::Status UploadBlob(const pb::UploadBlobStart& start, Source source,
                          const std::stop_token& stop) override;
  absl::Status PublishLogs(const std::vector<pb::PublishLogsRequest>& batch,
                           const std::stop_token& stop) override;

 private:
  GrpcCoordinatorChannel(std::unique_ptr<pb::AgentService::Stub> stub, Token token)
      : stub_(std::move(stub)), token_(std::move(token)) {}

  const std::unique_ptr<pb::AgentService::Stub> stub_;
  const Token token_;
};

}  // namespace lathe::agent
