#include "worker/agent/grpc_coordinator_channel.h"

#include <utility>

#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"

namespace lathe::agent {
namespace {

constexpr absl::Duration kUnaryDeadline = absl::Seconds(30);
constexpr absl::Duration kLogDeadline = absl::Seconds(60);

class GrpcSession final : public Session {
 public:
  GrpcSession(pb::AgentService::Stub& stub, const Token& token) {
    Prepare(context_, token, absl::InfiniteDuration());
    // The channel connects only while a call waits for it: one that fails at once would leave it
    // unconnected until the next.
    context_.set_wait_for_ready(true);
    stream_ = stub.Connect(&context_);
  }
  ~GrpcSession() override {
    if (finished_) return;
    context_.TryCancel();
    stream_->Finish();
  }
  bool Write(const pb::AgentMessage& message) override { return stream_->Write(message); }
  bool Read(pb::CoordinatorMessage& message) override { return stream_->Read(&message); }
  void Leave() override { stream_->WritesDone(); }
  void Close() override { context_.TryCancel(); }
  absl::Status Finish() override {
    finished_ = true;
    const absl::Status status = FromGrpc(stream_->Finish());
    return status.ok() ? absl::UnavailableError("the coordinator ended the session") : status;
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<pb::AgentMessage, pb::CoordinatorMessage>> stream_;
  bool finished_ = false;
};

class GrpcTextStream final : public TextStream {
 public:
  GrpcTextStream(pb::AgentService::Stub& stub, const Token& token) {
    Prepare(context_, token, absl::InfiniteDuration());
    stream_ = stub.PublishText(&context_, &response_);
  }
  ~GrpcTextStream() override {
    if (finished_) return;
    context_.TryCancel();
    stream_->Finish();
  }
  bool Write(const pb::PublishTextRequest& message) override { return stream_->Write(message); }
  void Close() override { context_.TryCancel(); }
  absl::Status Finish() override {
    finished_ = true;
    stream_->WritesDone();
    return FromGrpc(stream_->Finish());
  }

 private:
  grpc::ClientContext context_;
  pb::PublishTextResponse response_;
  std::unique_ptr<grpc::ClientWriter<pb::PublishTextRequest>> stream_;
  bool finished_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcCoordinatorChannel>> GrpcCoordinatorChannel::Make(
    absl::string_view address, Token token, absl::Duration max_pause) {
  LATHE_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                         MakeChannel(address, max_pause));
  return std::unique_ptr<GrpcCoordinatorChannel>(
      new GrpcCoordinatorChannel(pb::AgentService::NewStub(channel), std::move(token)));
}

std::unique_ptr<Session> GrpcCoordinatorChannel::Connect() {
  return std::make_unique<GrpcSession>(*stub_, token_);
}

std::unique_ptr<TextStream> GrpcCoordinatorChannel::OpenText() {
  return std::make_unique<GrpcTextStream>(*stub_, token_);
}

absl::Status GrpcCoordinatorChannel::DownloadBlob(const std::string& sha256, int64_t offset,
                                                  Sink sink, const std::stop_token& stop) {
  grpc::ClientContext context;
  Prepare(context, token_, absl::InfiniteDuration());
  const std::stop_callback cancel(stop, [&] { context.TryCancel(); });
  pb::DownloadBlobRequest request;
  request.set_sha256(sha256);
  request.set_offset(offset);
  const auto reader = stub_->DownloadBlob(&context, request);
  pb::DownloadBlobResponse response;
  absl::Status taken;
  while (taken.ok() && reader->Read(&response)) taken = sink(response.chunk());
  if (!taken.ok()) context.TryCancel();
  const absl::Status status = FromGrpc(reader->Finish());
  return taken.ok() ? status : taken;
}

absl::StatusOr<pb::GetBlobStatusResponse> GrpcCoordinatorChannel::GetBlobStatus(
    const std::string& sha256, const std::stop_token& stop) {
  grpc::ClientContext context;
  Prepare(context, token_, kUnaryDeadline);
  const std::stop_callback cancel(stop, [&] { context.TryCancel(); });
  pb::GetBlobStatusRequest request;
  request.set_sha256(sha256);
  pb::GetBlobStatusResponse response;
  LATHE_RETURN_IF_ERROR(FromGrpc(stub_->GetBlobStatus(&context, request, &response)));
  return response;
}

absl::Status GrpcCoordinatorChannel::UploadBlob(const pb::UploadBlobStart& start, Source source,
                                                const std::stop_token& stop) {
  grpc::ClientContext context;
  Prepare(context, token_, absl::InfiniteDuration());
  const std::stop_callback cancel(stop, [&] { context.TryCancel(); });
  pb::UploadBlobResponse response;
  const auto writer = stub_->UploadBlob(&context, &response);
  pb::UploadBlobRequest request;
  *request.mutable_start() = start;
  absl::Status read;
  bool written = writer->Write(request);
  while (written) {
    absl::StatusOr<std::string> chunk = source();
    read = chunk.status();
    if (!read.ok() || chunk->empty()) break;
    request.set_chunk(*std::move(chunk));
    written = writer->Write(request);
  }
  // A cancelled stream, not a short one: the coordinator must not take it for the end.
  if (!read.ok()) context.TryCancel();
  if (written && read.ok()) writer->WritesDone();
  const absl::Status status = FromGrpc(writer->Finish());
  return read.ok() ? status : read;
}

absl::Status GrpcCoordinatorChannel::PublishLogs(const std::vector<pb::PublishLogsRequest>& batch,
                                                 const std::stop_token& stop) {
  grpc::ClientContext context;
  Prepare(context, token_, kLogDeadline);
  const std::stop_callback cancel(stop, [&] { context.TryCancel(); });
  pb::PublishLogsResponse response;
  const auto writer = stub_->PublishLogs(&context, &response);
  for (const pb::PublishLogsRequest& request : batch) {
    if (!writer->Write(request)) break;
  }
  writer->WritesDone();
  return FromGrpc(writer->Finish());
}

}  // namespace lathe::agent
