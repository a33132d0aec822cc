#include "cli/transfer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "cli/output.h"
#include "common/base/file.h"
#include "common/base/human.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace lathe::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunkBytes = size_t{1} << 20;
constexpr std::array<absl::string_view, 10> kModelFileNames = {"config.json",
                                                               "generation_config.json",
                                                               "tokenizer.json",
                                                               "tokenizer_config.json",
                                                               "special_tokens_map.json",
                                                               "chat_template.jinja",
                                                               "model.safetensors",
                                                               "tokenizer.model",
                                                               "spiece.model",
                                                               "model.safetensors.index.json"};

// Reads the whole stream into `fd`, hashing.
absl::Status ReceiveFile(Connection& connection, const std::string& model, const v1::FileRef& file,
                         const fs::path& path, const std::function<void(int64_t)>& progress) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": create"));
  grpc::ClientContext context;
  connection.Prepare(context, absl::InfiniteDuration());
  v1::DownloadModelFileRequest request;
  request.set_name(model);
  request.set_path(file.path());
  const auto reader = connection.models().DownloadModelFile(&context, request);
  Sha256 hash;
  v1::DownloadModelFileResponse response;
  absl::Status status;
  while (status.ok() && reader->Read(&response)) {
    hash.Update(response.chunk());
    status = WriteAll(fd.get(), response.chunk(), path.string());
    progress(static_cast<int64_t>(response.chunk().size()));
  }
  if (!status.ok()) context.TryCancel();
  const grpc::Status end = reader->Finish();
  LATHE_RETURN_IF_ERROR(status);
  if (!end.ok()) return FromService(end);
  const std::string got = hash.FinishHex();
  if (got != file.blob().sha256()) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": sha256 is ", got, "; must be ", file.blob().sha256()));
  }
  return absl::OkStatus();
}

absl::StatusOr<fs::path> PrepareTarget(const fs::path& to) {
  std::error_code error;
  const fs::path target = fs::absolute(to, error).lexically_normal();
  fs::path clean = target.has_filename() ? target : target.parent_path();
  if (fs::exists(clean, error) && !(fs::is_directory(clean, error) && fs::is_empty(clean, error))) {
    return absl::AlreadyExistsError(
        absl::StrCat("--to is ", to.string(), ", which exists; give a new or an empty folder"));
  }
  if (!fs::exists(clean.parent_path(), error)) {
    LATHE_RETURN_IF_ERROR(MakeFolder(clean.parent_path()));
  }
  return clean;
}

}  // namespace

absl::StatusOr<v1::BlobRef> DescribeFile(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    return absl::NotFoundError(absl::StrCat(path.string(), ": no such file"));
  }
  if (!fs::is_regular_file(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": is not a regular file"));
  }
  v1::BlobRef blob;
  LATHE_ASSIGN_OR_RETURN(*blob.mutable_sha256(), Sha256OfFile(path));
  blob.set_size(static_cast<int64_t>(fs::file_size(path, error)));
  return blob;
}

absl::Status SendFile(const fs::path& path, const std::function<bool(std::string)>& send) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(path.string(), ": cannot be opened"));
  while (in) {
    std::string chunk(kChunkBytes, '\0');
    in.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    chunk.resize(static_cast<size_t>(in.gcount()));
    if (!chunk.empty() && !send(std::move(chunk))) return absl::OkStatus();
  }
  if (in.bad()) return absl::DataLossError(absl::StrCat(path.string(), ": reading failed"));
  return absl::OkStatus();
}

absl::StatusOr<v1::Dataset> UploadDataset(Connection& connection, const std::string& name,
                                          const fs::path& path, const std::string& format) {
  LATHE_ASSIGN_OR_RETURN(const v1::BlobRef blob, DescribeFile(path));
  grpc::ClientContext context;
  connection.Prepare(context, absl::InfiniteDuration());
  v1::Dataset dataset;
  const auto writer = connection.datasets().UploadDataset(&context, &dataset);
  v1::UploadDatasetRequest request;
  request.mutable_start()->set_name(name);
  request.mutable_start()->set_label(path.filename().string());
  request.mutable_start()->set_format(format);
  *request.mutable_start()->mutable_blob() = blob;
  if (writer->Write(request)) {
    absl::Status sent = SendFile(path, [&](std::string chunk) {
      request.set_chunk(std::move(chunk));
      return writer->Write(request);
    });
    if (!sent.ok()) {
      context.TryCancel();
      const grpc::Status ignored = writer->Finish();
      static_cast<void>(ignored);
      return sent;
    }
  }
  writer->WritesDone();
  LATHE_RETURN_IF_ERROR(FromService(writer->Finish()));
  return dataset;
}

absl::StatusOr<std::vector<fs::path>> ModelFiles(const fs::path& path) {
  std::error_code error;
  if (fs::is_regular_file(path, error)) return std::vector<fs::path>{path};
  if (!fs::is_directory(path, error)) {
    return absl::NotFoundError(absl::StrCat("--from is ", path.string(),
                                            ", which does not exist; allowed are a Hugging Face "
                                            "folder and a .gguf file"));
  }
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    const std::string name = entry.path().filename().string();
    const bool known =
        std::find(kModelFileNames.begin(), kModelFileNames.end(), name) != kModelFileNames.end();
    const std::string extension = entry.path().extension().string();
    if (entry.is_regular_file() && (known || extension == ".gguf" || extension == ".safetensors")) {
      files.push_back(entry.path());
    }
  }
  if (files.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--from is ", path.string(),
                     ", which holds neither config.json and model.safetensors nor a .gguf file"));
  }
  std::sort(files.begin(), files.end());
  return files;
}

namespace {

using ImportStream = grpc::ClientReaderWriter<v1::ImportModelRequest, v1::ImportModelResponse>;

// False: the stream is broken, its status tells why.
absl::StatusOr<bool> SendModelFiles(ImportStream& stream, const std::string& name,
                                    const std::vector<fs::path>& files,
                                    const std::function<void(const std::string&)>& progress) {
  v1::ImportModelRequest request;
  request.mutable_start()->set_name(name);
  request.mutable_start()->set_num_files(static_cast<int>(files.size()));
  bool open = stream.Write(request);
  for (const fs::path& file : files) {
    LATHE_ASSIGN_OR_RETURN(const v1::BlobRef blob, DescribeFile(file));
    progress(absl::StrCat("sends ", file.filename().string(), " (", HumanBytes(blob.size()), ")"));
    request.mutable_file()->set_path(file.filename().string());
    *request.mutable_file()->mutable_blob() = blob;
    open = open && stream.Write(request);
    if (!open) return false;
    LATHE_RETURN_IF_ERROR(SendFile(file, [&](std::string chunk) {
      request.set_chunk(std::move(chunk));
      return open = stream.Write(request);
    }));
  }
  return open;
}

}  // namespace

absl::StatusOr<v1::Model> ImportModel(Connection& connection, const std::string& name,
                                      const fs::path& path,
                                      const std::function<void(const std::string&)>& progress) {
  LATHE_ASSIGN_OR_RETURN(const std::vector<fs::path> files, ModelFiles(path));
  grpc::ClientContext context;
  connection.Prepare(context, absl::InfiniteDuration());
  const auto stream = connection.models().ImportModel(&context);
  const absl::StatusOr<bool> sent = SendModelFiles(*stream, name, files, progress);
  if (!sent.ok()) context.TryCancel();
  stream->WritesDone();
  v1::ImportModelResponse response;
  v1::Model model;
  while (stream->Read(&response)) {
    if (response.has_model()) model = response.model();
    if (!response.progress().empty()) progress(response.progress());
  }
  const absl::Status end = FromService(stream->Finish());
  if (!sent.ok()) return sent.status();
  LATHE_RETURN_IF_ERROR(end);
  return model;
}

absl::Status DownloadModel(Connection& connection, const v1::Model& model, const fs::path& to,
                           const TransferProgress& progress) {
  LATHE_ASSIGN_OR_RETURN(const fs::path target, PrepareTarget(to));
  LATHE_ASSIGN_OR_RETURN(TempFolder temp,
                         TempFolder::Make("." + target.filename().string(), target.parent_path()));
  int64_t all = 0;
  int64_t done = 0;
  for (const v1::FileRef& file : model.files().files()) all += file.blob().size();
  for (const v1::FileRef& file : model.files().files()) {
    if (!IsPathBelow(file.path())) {
      return absl::InvalidArgumentError(
          absl::StrCat("the service sent the path '", file.path(),
                       "'; only paths within the folder are allowed"));
    }
    const fs::path path = temp.path() / file.path();
    LATHE_RETURN_IF_ERROR(MakeFolder(path.parent_path()));
    LATHE_RETURN_IF_ERROR(ReceiveFile(connection, model.name(), file, path,
                                      [&](int64_t bytes) { progress(done += bytes, all); }));
  }
  MakePublic(temp.path());
  return temp.PublishAs(target);
}

void MakePublic(const fs::path& folder) {
  std::error_code ignored;
  constexpr fs::perms kPublic = fs::perms::owner_all | fs::perms::group_read |
                                fs::perms::group_exec | fs::perms::others_read |
                                fs::perms::others_exec;
  fs::permissions(folder, kPublic, ignored);
}

}  // namespace lathe::cli
