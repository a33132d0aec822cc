#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/connection.h"
#include "lathe/v1/common.pb.h"

// Bytes to and from the service. Progress callbacks get (bytes done, bytes in all).

namespace lathe::cli {

using TransferProgress = std::function<void(int64_t, int64_t)>;

// What the service is told about a local file: its hash and size.
absl::StatusOr<v1::BlobRef> DescribeFile(const std::filesystem::path& path);

// Feeds the file to `send` in chunks of at most 1 MiB. `send` returns false when the stream is
// broken: then this ends with OK and the stream's own status tells why.
absl::Status SendFile(const std::filesystem::path& path,
                      const std::function<bool(std::string chunk)>& send);

// Uploads a data set.
absl::StatusOr<v1::Dataset> UploadDataset(Connection& connection, const std::string& name,
                                          const std::filesystem::path& path,
                                          const std::string& format);

// The files that make up a model at `path`: a .gguf file, or the known files of a Hugging Face
// folder.
absl::StatusOr<std::vector<std::filesystem::path>> ModelFiles(const std::filesystem::path& path);

absl::StatusOr<v1::Model> ImportModel(Connection& connection, const std::string& name,
                                      const std::filesystem::path& path,
                                      const std::function<void(const std::string&)>& progress);

// Fills the new folder `to` with the model's files; verified by hash; nothing is left after an
// error.
absl::Status DownloadModel(Connection& connection, const v1::Model& model,
                           const std::filesystem::path& to, const TransferProgress& progress);

// Lets everybody read a folder that was made for its owner alone, where the file system can.
void MakePublic(const std::filesystem::path& folder);

}  // namespace lathe::cli
