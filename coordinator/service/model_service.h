#pragma once

#include "common/blob/blob_store.h"
#include "coordinator/service/coordinator.h"
#include "coordinator/store/store.h"
#include "lathe/v1/models.grpc.pb.h"

namespace lathe {

// lathe.v1.ModelService. Thread-safe; what it refers to outlives the server.
class ModelServiceImpl final : public v1::ModelService::Service {
 public:
  ModelServiceImpl(Coordinator& coordinator, Store& store, BlobStore& blobs)
      : coordinator_(coordinator), store_(store), blobs_(blobs) {}

  using ImportStream = grpc::ServerReaderWriter<v1::ImportModelResponse, v1::ImportModelRequest>;

  grpc::Status ImportModel(grpc::ServerContext* context, ImportStream* stream) override;
  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                        v1::Model* response) override;
  grpc::Status ListModels(grpc::ServerContext* context, const v1::ListModelsRequest* request,
                          v1::ListModelsResponse* response) override;
  grpc::Status DeleteModel(grpc::ServerContext* context, const v1::DeleteModelRequest* request,
                           v1::DeleteModelResponse* response) override;
  grpc::Status DownloadModelFile(
      grpc::ServerContext* context, const v1::DownloadModelFileRequest* request,
      grpc::ServerWriter<v1::DownloadModelFileResponse>* writer) override;

 private:
  absl::StatusOr<Model> Import(ImportStream& stream);
  // The files that the client sends, verified and stored.
  absl::StatusOr<FileTree> ReceiveFiles(ImportStream& stream, int num_files);
  // Runs the import on a worker unless the same files were imported before.
  absl::StatusOr<Model> Convert(ImportStream& stream, const FileTree& source);

  Coordinator& coordinator_;
  Store& store_;
  BlobStore& blobs_;
};

}  // namespace lathe
