#include "coordinator/service/model_service.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "coordinator/service/blob_receiver.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/errand_wait.h"

namespace lathe {
namespace {

absl::Status BadOrder() {
  return absl::InvalidArgumentError(
      "import: `start` comes first, then for each file `file` and its chunks of at most 1 MiB");
}

void SendProgress(ModelServiceImpl::ImportStream& stream, const std::string& line) {
  v1::ImportModelResponse response;
  response.set_progress(line);
  stream.Write(response);
}

}  // namespace

absl::StatusOr<FileTree> ModelServiceImpl::ReceiveFiles(ImportStream& stream, int num_files) {
  v1::FileTree received;
  int64_t total = 0;
  std::optional<BlobReceiver> receiver;
  v1::ImportModelRequest request;
  while (stream.Read(&request)) {
    if (request.has_file()) {
      if (receiver.has_value()) LATHE_RETURN_IF_ERROR(receiver->Commit());
      *received.add_files() = request.file();
      LATHE_RETURN_IF_ERROR(FromProto(received).status());
      const BlobRef blob = FromProto(request.file().blob());
      total += blob.size;
      if (received.files_size() > num_files || total > coordinator_.options().max_model_bytes) {
        return absl::ResourceExhaustedError(absl::StrCat(
            "import: got ", received.files_size(), " files with ", total, " bytes; announced were ",
            num_files, " files, allowed are ", coordinator_.options().max_model_bytes, " bytes"));
      }
      LATHE_ASSIGN_OR_RETURN(receiver, BlobReceiver::Start(blobs_, blob));
    } else if (request.has_chunk() && receiver.has_value() &&
               request.chunk().size() <= size_t{kMaxChunkBytes}) {
      LATHE_RETURN_IF_ERROR(receiver->Append(request.chunk()));
    } else {
      return BadOrder();
    }
  }
  if (receiver.has_value()) LATHE_RETURN_IF_ERROR(receiver->Commit());
  if (received.files_size() != num_files) {
    return absl::InvalidArgumentError(
        absl::StrCat("import: got ", received.files_size(), " files; announced were ", num_files));
  }
  return FromProto(received);
}

absl::StatusOr<Model> ModelServiceImpl::Convert(ImportStream& stream, const FileTree& source) {
  const auto wait = std::make_shared<ErrandWait>();
  LATHE_ASSIGN_OR_RETURN(const std::string errand,
                         coordinator_.StartErrand(kRoleImport, ImportErrand(source),
                                                  coordinator_.options().import_timeout,
                                                  ErrandWait::CallbacksFor(wait)));
  SendProgress(stream, "a worker converts the model");
  while (const std::optional<std::string> line = wait->NextProgress()) {
    v1::ImportModelResponse response;
    response.set_progress(*line);
    if (stream.Write(response)) continue;
    coordinator_.CancelErrand(errand);
    return absl::CancelledError("import: the client has gone");
  }
  const Ended ended = wait->Result();
  LATHE_RETURN_IF_ERROR(ErrandError(ended));
  internal::v1::Done done;
  if (ended.outputs.empty() || !done.ParseFromString(ended.payload)) {
    return absl::InternalError("import: the worker made no model");
  }
  Model model;
  model.kind = ModelKind::kBase;
  model.architecture = done.architecture();
  model.parameters = done.parameters();
  model.template_sha256 = done.template_sha256();
  model.files = ended.outputs;
  return model;
}

absl::StatusOr<Model> ModelServiceImpl::Import(ImportStream& stream) {
  v1::ImportModelRequest request;
  if (!stream.Read(&request) || !request.has_start()) return BadOrder();
  const v1::ImportStart start = request.start();
  if (start.num_files() < 1 || start.num_files() > kMaxTreeFiles) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_files is ", start.num_files(), "; must be in [1, ", kMaxTreeFiles, "]"));
  }
  // Before hundreds of megabytes come in for nothing. The same model again is found out below.
  absl::Status name = coordinator_.CheckModelName(start.name());
  if (!name.ok() && !store_.GetModel(start.name()).ok()) return name;
  LATHE_ASSIGN_OR_RETURN(const FileTree source, ReceiveFiles(stream, start.num_files()));
  // The canonical folder is what counts from here on.
  const absl::Cleanup drop = [&] { coordinator_.DropBlobs(source); };
  LATHE_ASSIGN_OR_RETURN(Model model, Convert(stream, source));
  model.name = start.name();
  return coordinator_.AddModel(std::move(model));
}

grpc::Status ModelServiceImpl::ImportModel(grpc::ServerContext*, ImportStream* stream) {
  const auto model = Import(*stream);
  if (!model.ok()) return ToGrpc(model.status());
  LogInfo(absl::StrCat("model ", model->name, " is imported: ", model->architecture, ", ",
                       model->parameters, " parameters"));
  v1::ImportModelResponse response;
  *response.mutable_model() = ToProto(*model);
  stream->Write(response);
  return grpc::Status::OK;
}

grpc::Status ModelServiceImpl::GetModel(grpc::ServerContext*, const v1::GetModelRequest* request,
                                        v1::Model* response) {
  const auto model = store_.GetModel(request->name());
  if (!model.ok()) return ToGrpc(model.status());
  *response = ToProto(*model);
  return grpc::Status::OK;
}

grpc::Status ModelServiceImpl::ListModels(grpc::ServerContext*, const v1::ListModelsRequest*,
                                          v1::ListModelsResponse* response) {
  const auto models = store_.ListModels();
  if (!models.ok()) return ToGrpc(models.status());
  for (const Model& model : *models) *response->add_models() = ToProto(model);
  return grpc::Status::OK;
}

grpc::Status ModelServiceImpl::DeleteModel(grpc::ServerContext*,
                                           const v1::DeleteModelRequest* request,
                                           v1::DeleteModelResponse*) {
  return ToGrpc(coordinator_.DeleteModel(request->name()));
}

grpc::Status ModelServiceImpl::DownloadModelFile(
    grpc::ServerContext*, const v1::DownloadModelFileRequest* request,
    grpc::ServerWriter<v1::DownloadModelFileResponse>* writer) {
  const auto model = store_.GetModel(request->name());
  if (!model.ok()) return ToGrpc(model.status());
  for (const FileRef& file : model->files) {
    if (file.path != request->path()) continue;
    int64_t offset = request->offset();
    while (true) {
      auto chunk = blobs_.Read(file.blob.sha256, offset, kMaxChunkBytes);
      if (!chunk.ok()) return ToGrpc(chunk.status());
      if (chunk->empty()) return grpc::Status::OK;
      offset += static_cast<int64_t>(chunk->size());
      v1::DownloadModelFileResponse response;
      response.set_chunk(*std::move(chunk));
      if (!writer->Write(response)) return grpc::Status::CANCELLED;
    }
  }
  return {grpc::StatusCode::NOT_FOUND,
          absl::StrCat("model '", request->name().substr(0, 80), "': has no file '",
                       request->path().substr(0, 80), "'")};
}

}  // namespace lathe
