#include "coordinator/service/agent_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "coordinator/service/agent_stream.h"
#include "coordinator/service/convert.h"

namespace lathe {

namespace pb = ::lathe::internal::v1;

grpc::ServerBidiReactor<pb::AgentMessage, pb::CoordinatorMessage>* AgentServiceImpl::Connect(
    grpc::CallbackServerContext*) {
  return AgentStream::Start(coordinator_);
}

grpc::Status AgentServiceImpl::DownloadBlob(grpc::ServerContext*,
                                            const pb::DownloadBlobRequest* request,
                                            grpc::ServerWriter<pb::DownloadBlobResponse>* writer) {
  int64_t offset = request->offset();
  while (true) {
    if (const absl::Status status = fault::Hit("rpc.download"); !status.ok()) return ToGrpc(status);
    auto chunk = blobs_.Read(request->sha256(), offset, kMaxChunkBytes);
    if (!chunk.ok()) return ToGrpc(chunk.status());
    if (chunk->empty()) return grpc::Status::OK;
    offset += static_cast<int64_t>(chunk->size());
    pb::DownloadBlobResponse response;
    response.set_chunk(*std::move(chunk));
    if (!writer->Write(response)) return grpc::Status::CANCELLED;
  }
}

grpc::Status AgentServiceImpl::GetBlobStatus(grpc::ServerContext*,
                                             const pb::GetBlobStatusRequest* request,
                                             pb::GetBlobStatusResponse* response) {
  const BlobStore::Info info = blobs_.Stat(request->sha256());
  response->set_size(info.size);
  response->set_complete(info.complete);
  return grpc::Status::OK;
}

absl::Status AgentServiceImpl::Upload(grpc::ServerReader<pb::UploadBlobRequest>& reader) {
  pb::UploadBlobRequest request;
  if (!reader.Read(&request) || !request.has_start()) {
    return absl::InvalidArgumentError("upload: the first message must be `start`");
  }
  const pb::UploadBlobStart start = request.start();
  if (!coordinator_.MayWrite(start.job_id(), start.attempt())) {
    return absl::FailedPreconditionError(
        absl::StrCat(start.job_id().substr(0, 80), ": attempt ", start.attempt(), " is over"));
  }
  LATHE_RETURN_IF_ERROR(fault::Hit("rpc.upload"));
  auto writer = blobs_.Begin(FromProto(start.blob()), start.offset());
  if (absl::IsAlreadyExists(writer.status())) return absl::OkStatus();
  if (!writer.ok()) return writer.status();
  while (reader.Read(&request)) {
    if (!request.has_chunk() || request.chunk().size() > size_t{kMaxChunkBytes}) {
      return absl::InvalidArgumentError("upload: after `start` come chunks of at most 1 MiB");
    }
    LATHE_RETURN_IF_ERROR(writer->Append(request.chunk()));
  }
  const absl::Status status = writer->Commit();
  // The bytes are there; their sender does not get to know it.
  LATHE_RETURN_IF_ERROR(fault::Hit("rpc.uploaded"));
  return absl::IsDataLoss(status) ? absl::InvalidArgumentError(status.message()) : status;
}

grpc::Status AgentServiceImpl::UploadBlob(grpc::ServerContext* context,
                                          grpc::ServerReader<pb::UploadBlobRequest>* reader,
                                          pb::UploadBlobResponse*) {
  const absl::Status status = Upload(*reader);
  // A broken connection looks like the end of the bytes: what came stays, to be continued.
  if (context->IsCancelled()) return grpc::Status::CANCELLED;
  return ToGrpc(status);
}

grpc::Status AgentServiceImpl::PublishLogs(grpc::ServerContext*,
                                           grpc::ServerReader<pb::PublishLogsRequest>* reader,
                                           pb::PublishLogsResponse*) {
  pb::PublishLogsRequest request;
  while (reader->Read(&request)) {
    const JobId job(request.job_id());
    // Of errands nothing is kept: what matters comes back as their result.
    if (!coordinator_.KnowsJob(job)) continue;
    const absl::Status status = logs_.Append(job, request.source(), request.text());
    if (!status.ok()) {
      LogWarning(status.ToString());
      return ToGrpc(status);
    }
    hub_.Notify(job.value());
  }
  return grpc::Status::OK;
}

absl::Status AgentServiceImpl::PublishOne(const pb::PublishTextRequest& request) {
  const std::shared_ptr<ChatSession> session = chats_.Find(request.chat_id());
  if (session == nullptr) return absl::AbortedError("chat: nobody listens any more");
  const pb::GeneratedText& text = request.text();
  const bool last = text.error_code() != 0 || !text.response().finish_reason().empty();
  const std::string key = Chats::HubKey(request.chat_id());
  if (text.error_code() == 0 && !session->Push(text.response())) {
    return absl::AbortedError("chat: nobody listens any more");
  }
  if (last) {
    const bool known = text.error_code() > 0 && text.error_code() <= 16;
    session->End(absl::Status(
        known ? static_cast<absl::StatusCode>(text.error_code())
              : (text.error_code() == 0 ? absl::StatusCode::kOk : absl::StatusCode::kInternal),
        text.error().substr(0, 1024)));
  }
  hub_.Notify(key);
  return absl::OkStatus();
}

grpc::Status AgentServiceImpl::PublishText(grpc::ServerContext*,
                                           grpc::ServerReader<pb::PublishTextRequest>* reader,
                                           pb::PublishTextResponse*) {
  pb::PublishTextRequest request;
  while (reader->Read(&request)) {
    const absl::Status status = PublishOne(request);
    if (!status.ok()) return ToGrpc(status);
  }
  return grpc::Status::OK;
}

}  // namespace lathe
