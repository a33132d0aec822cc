#include "coordinator/service/dataset_service.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/id.h"
#include "common/base/log.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "coordinator/service/blob_receiver.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/errand_wait.h"

namespace lathe {
namespace {

absl::Status ValidateStart(const v1::UploadStart& start, int64_t max_bytes) {
  LATHE_RETURN_IF_ERROR(ValidateName("name of data set", start.name()));
  if (!start.format().empty() && start.format() != "json" && start.format() != "jsonl") {
    return absl::InvalidArgumentError(absl::StrCat("format is '", start.format().substr(0, 80),
                                                   "'; must be json, jsonl or empty"));
  }
  if (start.label().size() > 255) {
    return absl::InvalidArgumentError("label is longer than 255 bytes");
  }
  if (start.blob().size() > max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "data set has ", start.blob().size(), " bytes; at most ", max_bytes, " are allowed"));
  }
  return Validate(FromProto(start.blob()));
}

// What the client still waits for, but no longer than the coordinator's own limit.
absl::Duration TimeoutOf(const grpc::ServerContext& context, absl::Duration limit) {
  return std::min(limit, absl::FromChrono(context.deadline()) - absl::Now());
}

}  // namespace

absl::StatusOr<Dataset> DatasetServiceImpl::Upload(
    grpc::ServerReader<v1::UploadDatasetRequest>& reader) {
  v1::UploadDatasetRequest request;
  if (!reader.Read(&request) || !request.has_start()) {
    return absl::InvalidArgumentError("upload: the first message must be `start`");
  }
  const v1::UploadStart start = request.start();
  LATHE_RETURN_IF_ERROR(ValidateStart(start, coordinator_.options().max_dataset_bytes));
  const BlobRef blob = FromProto(start.blob());
  LATHE_ASSIGN_OR_RETURN(BlobReceiver receiver, BlobReceiver::Start(blobs_, blob));
  while (reader.Read(&request)) {
    if (!request.has_chunk() || request.chunk().size() > size_t{kMaxChunkBytes}) {
      return absl::InvalidArgumentError("upload: after `start` come chunks of at most 1 MiB");
    }
    LATHE_RETURN_IF_ERROR(receiver.Append(request.chunk()));
  }
  LATHE_RETURN_IF_ERROR(receiver.Commit());
  Dataset dataset;
  dataset.name = start.name();
  dataset.blob = blob;
  dataset.label = start.label();
  dataset.format = start.format();
  return coordinator_.AddDataset(std::move(dataset));
}

grpc::Status DatasetServiceImpl::UploadDataset(grpc::ServerContext*,
                                               grpc::ServerReader<v1::UploadDatasetRequest>* reader,
                                               v1::Dataset* response) {
  const auto dataset = Upload(*reader);
  if (!dataset.ok()) return ToGrpc(dataset.status());
  *response = ToProto(*dataset);
  return grpc::Status::OK;
}

grpc::Status DatasetServiceImpl::GetDataset(grpc::ServerContext*,
                                            const v1::GetDatasetRequest* request,
                                            v1::Dataset* response) {
  const auto dataset = store_.GetDataset(request->name());
  if (!dataset.ok()) return ToGrpc(dataset.status());
  *response = ToProto(*dataset);
  return grpc::Status::OK;
}

grpc::Status DatasetServiceImpl::ListDatasets(grpc::ServerContext*, const v1::ListDatasetsRequest*,
                                              v1::ListDatasetsResponse* response) {
  const auto datasets = store_.ListDatasets();
  if (!datasets.ok()) return ToGrpc(datasets.status());
  for (const Dataset& dataset : *datasets) *response->add_datasets() = ToProto(dataset);
  return grpc::Status::OK;
}

grpc::Status DatasetServiceImpl::DeleteDataset(grpc::ServerContext*,
                                               const v1::DeleteDatasetRequest* request,
                                               v1::DeleteDatasetResponse*) {
  return ToGrpc(coordinator_.DeleteDataset(request->name()));
}

absl::StatusOr<FileTree> DatasetServiceImpl::ModelTree(const std::string& name) {
  if (name.empty()) return FileTree();
  LATHE_ASSIGN_OR_RETURN(Model model, store_.GetModel(name));
  if (model.kind == ModelKind::kAdapter) {
    LATHE_ASSIGN_OR_RETURN(model, store_.GetModel(model.base_model));
  }
  return model.files;
}

absl::StatusOr<std::string> DatasetServiceImpl::RunOnce(const std::string& role,
                                                        const std::string& key, ErrandTask task,
                                                        absl::Duration timeout) {
  const std::string hashed = Sha256Hex(key);
  LATHE_ASSIGN_OR_RETURN(auto known, store_.GetResult(hashed));
  if (known.has_value()) return *std::move(known);
  const auto wait = std::make_shared<ErrandWait>();
  LATHE_RETURN_IF_ERROR(
      coordinator_.StartErrand(role, std::move(task), timeout, ErrandWait::CallbacksFor(wait))
          .status());
  const Ended ended = wait->Result();
  LATHE_RETURN_IF_ERROR(ErrandError(ended));
  // A result that cannot be kept is still a result.
  if (const absl::Status kept = store_.PutResult(hashed, ended.payload); !kept.ok()) {
    LogWarning(kept.ToString());
  }
  return ended.payload;
}

absl::StatusOr<v1::DatasetReport> DatasetServiceImpl::Check(const v1::CheckDatasetRequest& request,
                                                            absl::Duration timeout) {
  LATHE_ASSIGN_OR_RETURN(const Dataset dataset, store_.GetDataset(request.name()));
  LATHE_ASSIGN_OR_RETURN(const FileTree model, ModelTree(request.model()));
  const std::string key = absl::StrCat("check-v1 ", dataset.blob.sha256, " ", dataset.format, " ",
                                       TreeSha256(model), " ", request.max_length());
  LATHE_ASSIGN_OR_RETURN(
      const std::string payload,
      RunOnce(kRoleCheck, key, CheckErrand(dataset, model, request.max_length()), timeout));
  internal::v1::Done done;
  if (!done.ParseFromString(payload)) return absl::InternalError("check: its report is not whole");
  return std::move(*done.mutable_report());
}

absl::StatusOr<v1::DatasetPreview> DatasetServiceImpl::Preview(
    const v1::PreviewDatasetRequest& request, absl::Duration timeout) {
  LATHE_ASSIGN_OR_RETURN(const Dataset dataset, store_.GetDataset(request.name()));
  if (request.model().empty()) {
    return absl::InvalidArgumentError("model is empty; a preview needs one: lathe models list");
  }
  if (request.row() < 0) {
    return absl::OutOfRangeError(absl::StrCat("row is ", request.row(), "; rows count from 0"));
  }
  LATHE_ASSIGN_OR_RETURN(const FileTree model, ModelTree(request.model()));
  const std::string key =
      absl::StrCat("preview-v1 ", dataset.blob.sha256, " ", dataset.format, " ", TreeSha256(model),
                   " ", request.row(), " ", request.max_length());
  LATHE_ASSIGN_OR_RETURN(
      const std::string payload,
      RunOnce(kRolePreview, key, PreviewErrand(dataset, model, request.row(), request.max_length()),
              timeout));
  internal::v1::Done done;
  if (!done.ParseFromString(payload)) return absl::InternalError("preview: it is not whole");
  return std::move(*done.mutable_preview());
}

grpc::Status DatasetServiceImpl::CheckDataset(grpc::ServerContext* context,
                                              const v1::CheckDatasetRequest* request,
                                              v1::DatasetReport* response) {
  auto report = Check(*request, TimeoutOf(*context, coordinator_.options().check_timeout));
  if (!report.ok()) return ToGrpc(report.status());
  *response = *std::move(report);
  return grpc::Status::OK;
}

grpc::Status DatasetServiceImpl::PreviewDataset(grpc::ServerContext* context,
                                                const v1::PreviewDatasetRequest* request,
                                                v1::DatasetPreview* response) {
  auto preview = Preview(*request, TimeoutOf(*context, coordinator_.options().check_timeout));
  if (!preview.ok()) return ToGrpc(preview.status());
  *response = *std::move(preview);
  return grpc::Status::OK;
}

}  // namespace lathe
