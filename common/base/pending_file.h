#pragma once

#include <filesystem>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/file.h"

namespace lathe {

// A file of any size that is written without holding it: at its path as a whole or not at all.
// Until Publish returns OK the path is as it was; an object that dies before removes its temporary
// file. ResourceExhausted: the disk is full. Thread-compatible.
class PendingFile {
 public:
  // The temporary file lies beside `path`.
  static absl::StatusOr<PendingFile> Create(const std::filesystem::path& path);
  PendingFile(PendingFile&& other) noexcept;
  PendingFile& operator=(PendingFile&&) = delete;
  ~PendingFile();

  absl::Status Append(absl::string_view bytes);
  // Bytes and name are on the disk.
  absl::Status Publish();
  const std::filesystem::path& path() const { return path_; }

 private:
  PendingFile(std::filesystem::path path, std::filesystem::path temp, UniqueFd fd);

  std::filesystem::path path_;
  std::filesystem::path temp_;  // Empty: published or moved away.
  UniqueFd fd_;
};

}  // namespace lathe
