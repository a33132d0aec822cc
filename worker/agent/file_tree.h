#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "lathe/v1/common.pb.h"

// Folders as they travel: lists of relative paths and hashes. Everything in a FileTree came over
// the network, everything in an output folder was written by a child: neither is trusted.

namespace lathe::agent {

inline constexpr int kMaxTreeFiles = 10000;

// InvalidArgument unless `path` is relative, '/' between parts, no part empty, "." or "..", each
// at most 255 bytes of printable UTF-8 without backslash, 1024 bytes and 16 parts in all.
absl::Status ValidateRelativePath(absl::string_view path);

// InvalidArgument: more than kMaxTreeFiles files, a bad path, a path twice or below a file, a hash
// that is not 64 lower-case hexadecimal digits, a negative size.
absl::Status ValidateTree(const v1::FileTree& tree);

// Names the content of a tree: equal trees, equal digest.
std::string TreeDigest(const v1::FileTree& tree);

// Makes `target`, and the folders above it, as a hard link to `blob` (a copy where another file
// system is in the way). What is there already is replaced.
absl::Status PlaceFile(const std::filesystem::path& blob, const std::filesystem::path& target);

// The relative paths of the regular files below `folder`, sorted; none if it does not exist.
// InvalidArgument: a symbolic link
// or device, a path that ValidateRelativePath refuses, more than kMaxTreeFiles.
absl::StatusOr<std::vector<std::string>> ListOutputs(const std::filesystem::path& folder);

}  // namespace lathe::agent
