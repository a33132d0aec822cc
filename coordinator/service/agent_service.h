#pragma once

#include "common/blob/blob_store.h"
#include "coordinator/service/chats.h"
#include "coordinator/service/coordinator.h"
#include "coordinator/service/hub.h"
#include "coordinator/service/job_logs.h"
#include "lathe/internal/v1/agent.grpc.pb.h"

namespace lathe {

// lathe.internal.v1.AgentService. Thread-safe; what it refers to outlives the server.
class AgentServiceImpl final : public internal::v1::AgentService::WithCallbackMethod_Connect<
                                   internal::v1::AgentService::Service> {
 public:
  AgentServiceImpl(Coordinator& coordinator, BlobStore& blobs, JobLogs& logs, Chats& chats,
                   Hub& hub)
      : coordinator_(coordinator), blobs_(blobs), logs_(logs), chats_(chats), hub_(hub) {}

  grpc::ServerBidiReactor<internal::v1::AgentMessage, internal::v1::CoordinatorMessage>* Connect(
      grpc::CallbackServerContext* context) override;
  grpc::Status DownloadBlob(
      grpc::ServerContext* context, const internal::v1::DownloadBlobRequest* request,
      grpc::ServerWriter<internal::v1::DownloadBlobResponse>* writer) override;
  grpc::Status GetBlobStatus(grpc::ServerContext* context,
                             const internal::v1::GetBlobStatusRequest* request,
                             internal::v1::GetBlobStatusResponse* response) override;
  grpc::Status UploadBlob(grpc::ServerContext* context,
                          grpc::ServerReader<internal::v1::UploadBlobRequest>* reader,
                          internal::v1::UploadBlobResponse* response) override;
  grpc::Status PublishLogs(grpc::ServerContext* context,
                           grpc::ServerReader<internal::v1::PublishLogsRequest>* reader,
                           internal::v1::PublishLogsResponse* response) override;
  grpc::Status PublishText(grpc::ServerContext* context,
                           grpc::ServerReader<internal::v1::PublishTextRequest>* reader,
                           internal::v1::PublishTextResponse* response) override;

 private:
  absl::Status Upload(grpc::ServerReader<internal::v1::UploadBlobRequest>& reader);
  absl::Status PublishOne(const internal::v1::PublishTextRequest& request);

  Coordinator& coordinator_;
  BlobStore& blobs_;
  JobLogs& logs_;
  Chats& chats_;
  Hub& hub_;
};

}  // namespace lathe
