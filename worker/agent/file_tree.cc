#include "worker/agent/file_tree.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "worker/agent/text_line.h"

namespace lathe::agent {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxPathBytes = 1024;
constexpr size_t kMaxPartBytes = 255;
constexpr size_t kMaxParts = 16;

absl::Status BadPath(absl::string_view path, absl::string_view reason) {
  return absl::InvalidArgumentError(
      absl::StrCat("file path is '", CleanLine(path.substr(0, 200)), "'; ", reason));
}

absl::Status ValidateBlob(const v1::FileRef& file) {
  const std::string& hash = file.blob().sha256();
  const bool hex = std::all_of(hash.begin(), hash.end(), [](char c) {
    return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
  });
  if (hash.size() != 64 || !hex) {
    return absl::InvalidArgumentError(
        absl::StrCat("file ", file.path(), ": sha256 must be 64 lower-case hexadecimal digits"));
  }
  if (file.blob().size() < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("file ", file.path(), ": size is ", file.blob().size()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateRelativePath(absl::string_view path) {
  if (path.empty() || path.size() > kMaxPathBytes) {
    return BadPath(path, absl::StrCat("must have 1 to ", kMaxPathBytes, " bytes"));
  }
  if (CleanLine(path) != path || absl::StrContains(path, '\\') || absl::StrContains(path, '\t')) {
    return BadPath(path, "must be printable UTF-8 without backslash");
  }
  const std::vector<absl::string_view> parts = absl::StrSplit(path, '/');
  if (parts.size() > kMaxParts) {
    return BadPath(path, absl::StrCat("must have at most ", kMaxParts, " parts"));
  }
  for (const absl::string_view part : parts) {
    if (part.empty() || part == "." || part == ".." || part.size() > kMaxPartBytes) {
      return BadPath(path, "must be relative, without empty, '.' or '..' parts");
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateTree(const v1::FileTree& tree) {
  if (tree.files_size() > kMaxTreeFiles) {
    return absl::InvalidArgumentError(
        absl::StrCat("file tree has ", tree.files_size(), " files; at most ", kMaxTreeFiles));
  }
  std::set<std::string> paths;
  for (const v1::FileRef& file : tree.files()) {
    LATHE_RETURN_IF_ERROR(ValidateRelativePath(file.path()));
    LATHE_RETURN_IF_ERROR(ValidateBlob(file));
    if (!paths.insert(file.path()).second) return BadPath(file.path(), "it is there twice");
  }
  for (const std::string& path : paths) {
    for (size_t slash = path.find('/'); slash != path.npos; slash = path.find('/', slash + 1)) {
      if (paths.contains(path.substr(0, slash))) return BadPath(path, "it is below another file");
    }
  }
  return absl::OkStatus();
}

std::string TreeDigest(const v1::FileTree& tree) {
  std::set<std::string> lines;
  for (const v1::FileRef& file : tree.files()) {
    lines.insert(absl::StrCat(file.blob().sha256(), " ", file.path(), "\n"));
  }
  Sha256 hash;
  for (const std::string& line : lines) hash.Update(line);
  return hash.FinishHex();
}

absl::Status PlaceFile(const fs::path& blob, const fs::path& target) {
  LATHE_RETURN_IF_ERROR(MakeFolder(target.parent_path(), 0700));
  unlink(target.c_str());
  if (link(blob.c_str(), target.c_str()) == 0) return absl::OkStatus();
  if (errno != EXDEV && errno != EMLINK && errno != EPERM) {
    return ErrnoToStatus(errno, absl::StrCat(target.string(), ": link"));
  }
  std::error_code error;
  fs::copy_file(blob, target, error);
  if (error) return ErrnoToStatus(error.value(), absl::StrCat(target.string(), ": copy"));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ListOutputs(const fs::path& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  if (!fs::exists(folder, error)) return paths;
  fs::recursive_directory_iterator entries(folder, error);
  for (; !error && entries != fs::recursive_directory_iterator(); entries.increment(error)) {
    const fs::file_type type = entries->symlink_status(error).type();
    if (error || type == fs::file_type::directory) continue;
    std::string path = entries->path().lexically_relative(folder).generic_string();
    LATHE_RETURN_IF_ERROR(ValidateRelativePath(path));
    if (type != fs::file_type::regular) return BadPath(path, "an output must be a regular file");
    paths.push_back(std::move(path));
    if (paths.size() > kMaxTreeFiles) {
      return absl::InvalidArgumentError(
          absl::StrCat("the output folder has more than ", kMaxTreeFiles, " files"));
    }
  }
  if (error) return ErrnoToStatus(error.value(), absl::StrCat(folder.string(), ": list"));
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace lathe::agent
