// The real channel against a small AgentService on a free loopback port.

#include "worker/agent/grpc_coordinator_channel.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "common/base/sha256.h"
#include "common/rpc/server.h"
#include "common/rpc/status.h"
#include "gmock/gmock.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"

namespace lathe::agent {
namespace {

constexpr char kToken[] = "a token of the workers";

class FakeService final : public pb::AgentService::Service {
 public:
  static grpc::Status CheckToken(const grpc::ServerContext& context) {
    const auto found = context.client_metadata().find("authorization");
    if (found != context.client_metadata().end() &&
        found->second == absl::StrCat("Bearer ", kToken)) {
      return grpc::Status::OK;
    }
    return {grpc::StatusCode::UNAUTHENTICATED, "wrong token"};
  }

  grpc::Status Connect(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<pb::CoordinatorMessage, pb::AgentMessage>* stream) override {
    if (grpc::Status status = CheckToken(*context); !status.ok()) return status;
    pb::AgentMessage message;
    while (stream->Read(&message)) {
      pb::CoordinatorMessage answer;
      answer.mutable_heartbeat()->set_sequence(message.heartbeat().sequence());
      stream->Write(answer);
    }
    goodbye = !context->IsCancelled();
    return grpc::Status::OK;
  }

  grpc::Status DownloadBlob(grpc::ServerContext* context, const pb::DownloadBlobRequest* request,
                            grpc::ServerWriter<pb::DownloadBlobResponse>* writer) override {
    if (request->sha256() == "hang") {
      // Until the client gives up: what a stop must be able to end.
      pb::DownloadBlobResponse response;
      response.set_chunk("x");
      while (!context->IsCancelled() && writer->Write(response)) {
      }
      return grpc::Status::CANCELLED;
    }
    if (request->sha256() != Sha256Hex(blob)) return {grpc::StatusCode::NOT_FOUND, "no such blob"};
    for (size_t at = static_cast<size_t>(request->offset()); at < blob.size(); at += 1 << 20) {
      pb::DownloadBlobResponse response;
      response.set_chunk(blob.substr(at, 1 << 20));
      writer->Write(response);
    }
    return grpc::Status::OK;
  }

  grpc::Status GetBlobStatus(grpc::ServerContext*, const pb::GetBlobStatusRequest*,
                             pb::GetBlobStatusResponse* response) override {
    response->set_size(7);
    return grpc::Status::OK;
  }

  grpc::Status UploadBlob(grpc::ServerContext* context,
                          grpc::ServerReader<pb::UploadBlobRequest>* reader,
                          pb::UploadBlobResponse*) override {
    pb::UploadBlobRequest request;
    reader->Read(&request);
    if (request.start().job_id() == "job-old") {
      return {grpc::StatusCode::FAILED_PRECONDITION, "attempt 1 is over"};
    }
    while (reader->Read(&request)) uploaded += request.chunk();
    return context->IsCancelled() ? grpc::Status::CANCELLED : grpc::Status::OK;
  }

  grpc::Status PublishLogs(grpc::ServerContext*, grpc::ServerReader<pb::PublishLogsRequest>* reader,
                           pb::PublishLogsResponse*) override {
    pb::PublishLogsRequest request;
    while (reader->Read(&request)) logs += request.text();
    return grpc::Status::OK;
  }

  grpc::Status PublishText(grpc::ServerContext*, grpc::ServerReader<pb::PublishTextRequest>* reader,
                           pb::PublishTextResponse*) override {
    pb::PublishTextRequest request;
    reader->Read(&request);
    return {grpc::StatusCode::ABORTED, "nobody listens any more"};
  }

  const std::string blob = std::string(3'500'000, 'b') + "end";
  std::string uploaded;
  std::string logs;
  bool goodbye = false;
};

class GrpcChannelTest : public ::testing::Test {
 protected:
  GrpcChannelTest() {
    grpc::ServerBuilder builder;
    ApplyServerLimits(builder);
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port);
    channel_ = *GrpcCoordinatorChannel::Make(address_, Token(kToken));
  }

  FakeService service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::unique_ptr<GrpcCoordinatorChannel> channel_;
  std::stop_source stop_;
};

TEST_F(GrpcChannelTest, ASessionCarriesMessagesBothWaysAndEndsWithAGoodbye) {
  const auto session = channel_->Connect();
  pb::AgentMessage message;
  message.mutable_heartbeat()->set_sequence(5);
  ASSERT_TRUE(session->Write(message));
  pb::CoordinatorMessage answer;
  ASSERT_TRUE(session->Read(answer));
  EXPECT_EQ(answer.heartbeat().sequence(), 5);
  session->Leave();
  EXPECT_FALSE(session->Read(answer));
  EXPECT_EQ(session->Finish().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(service_.goodbye);
}

TEST_F(GrpcChannelTest, AWrongTokenIsTold) {
  const auto channel = *GrpcCoordinatorChannel::Make(address_, Token("another token of nobody"));
  const auto session = channel->Connect();
  pb::CoordinatorMessage answer;
  EXPECT_FALSE(session->Read(answer));
  EXPECT_EQ(session->Finish().code(), absl::StatusCode::kUnauthenticated);
}

TEST_F(GrpcChannelTest, CloseEndsABlockedRead) {
  const auto session = channel_->Connect();
  std::jthread closer([&] { session->Close(); });
  pb::CoordinatorMessage answer;
  EXPECT_FALSE(session->Read(answer));
  closer.join();
  EXPECT_FALSE(session->Finish().ok());
}

TEST_F(GrpcChannelTest, ABlobArrivesFromItsOffset) {
  std::string got;
  const auto sink = [&](absl::string_view bytes) {
    got.append(bytes.data(), bytes.size());
    return absl::OkStatus();
  };
  const std::string hash = Sha256Hex(service_.blob);
  ASSERT_TRUE(channel_->DownloadBlob(hash, 1'000'000, sink, stop_.get_token()).ok());
  EXPECT_EQ(got, service_.blob.substr(1'000'000));
  EXPECT_EQ(channel_->DownloadBlob("none", 0, sink, stop_.get_token()).code(),
            absl::StatusCode::kNotFound);
}

TEST_F(GrpcChannelTest, AFullDiskEndsADownloadWithItsOwnError) {
  const auto sink = [](absl::string_view) { return absl::ResourceExhaustedError("disk full"); };
  EXPECT_EQ(channel_->DownloadBlob(Sha256Hex(service_.blob), 0, sink, stop_.get_token()),
            absl::ResourceExhaustedError("disk full"));
}

TEST_F(GrpcChannelTest, AStopEndsADownload) {
  const auto sink = [&](absl::string_view) {
    stop_.request_stop();
    return absl::OkStatus();
  };
  EXPECT_EQ(channel_->DownloadBlob("hang", 0, sink, stop_.get_token()).code(),
            absl::StatusCode::kCancelled);
}

TEST_F(GrpcChannelTest, AnUploadIsWholeOrCancelled) {
  pb::UploadBlobStart start;
  int left = 3;
  const auto source = [&]() -> absl::StatusOr<std::string> {
    return left-- > 0 ? std::string(1 << 20, 'u') : std::string();
  };
  ASSERT_TRUE(channel_->UploadBlob(start, source, stop_.get_token()).ok());
  EXPECT_EQ(service_.uploaded.size(), 3u << 20);
  const auto broken = []() -> absl::StatusOr<std::string> { return absl::DataLossError("disk"); };
  EXPECT_EQ(channel_->UploadBlob(start, broken, stop_.get_token()).code(),
            absl::StatusCode::kDataLoss);
  start.set_job_id("job-old");
  left = 100;
  EXPECT_EQ(channel_->UploadBlob(start, source, stop_.get_token()).message(), "attempt 1 is over");
}

TEST_F(GrpcChannelTest, LogsArriveAndAChatThatNobodyHearsIsTold) {
  std::vector<pb::PublishLogsRequest> batch(2);
  batch[0].set_text("a\n");
  batch[1].set_text("b\n");
  ASSERT_TRUE(channel_->PublishLogs(batch, stop_.get_token()).ok());
  EXPECT_EQ(service_.logs, "a\nb\n");
  EXPECT_EQ(channel_->GetBlobStatus("x", stop_.get_token())->size(), 7);
  const auto text = channel_->OpenText();
  text->Write({});
  EXPECT_EQ(text->Finish().code(), absl::StatusCode::kAborted);
}

TEST(GrpcChannelAddressTest, OffLoopbackIsRefused) {
  EXPECT_FALSE(GrpcCoordinatorChannel::Make("10.1.1.1:70", Token(kToken)).ok());
}

}  // namespace
}  // namespace lathe::agent
