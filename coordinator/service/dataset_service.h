#pragma once

#include "common/blob/blob_store.h"
#include "coordinator/service/coordinator.h"
#include "coordinator/store/store.h"
#include "lathe/v1/datasets.grpc.pb.h"

namespace lathe {

// lathe.v1.DatasetService. Thread-safe; what it refers to outlives the server.
class DatasetServiceImpl final : public v1::DatasetService::Service {
 public:
  DatasetServiceImpl(Coordinator& coordinator, Store& store, BlobStore& blobs)
      : coordinator_(coordinator), store_(store), blobs_(blobs) {}

  grpc::Status UploadDataset(grpc::ServerContext* context,
                             grpc::ServerReader<v1::UploadDatasetRequest>* reader,
                             v1::Dataset* response) override;
  grpc::Status GetDataset(grpc::ServerContext* context, const v1::GetDatasetRequest* request,
                          v1::Dataset* response) override;
  grpc::Status ListDatasets(grpc::ServerContext* context, const v1::ListDatasetsRequest* request,
                            v1::ListDatasetsResponse* response) override;
  grpc::Status DeleteDataset(grpc::ServerContext* context, const v1::DeleteDatasetRequest* request,
                             v1::DeleteDatasetResponse* response) override;
  grpc::Status CheckDataset(grpc::ServerContext* context, const v1::CheckDatasetRequest* request,
                            v1::DatasetReport* response) override;
  grpc::Status PreviewDataset(grpc::ServerContext* context,
                              const v1::PreviewDatasetRequest* request,
                              v1::DatasetPreview* response) override;

 private:
  absl::StatusOr<Dataset> Upload(grpc::ServerReader<v1::UploadDatasetRequest>& reader);
  // The canonical folder of a base, or of the base below an adapter; empty for "".
  absl::StatusOr<FileTree> ModelTree(const std::string& model);
  // Runs the errand unless its result is known; the serialised Done.
  absl::StatusOr<std::string> RunOnce(const std::string& role, const std::string& key,
                                      ErrandTask task, absl::Duration timeout);
  absl::StatusOr<v1::DatasetReport> Check(const v1::CheckDatasetRequest& request,
                                          absl::Duration timeout);
  absl::StatusOr<v1::DatasetPreview> Preview(const v1::PreviewDatasetRequest& request,
                                             absl::Duration timeout);

  Coordinator& coordinator_;
  Store& store_;
  BlobStore& blobs_;
};

}  // namespace lathe
