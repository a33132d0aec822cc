#include "worker/formats/weight_files.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/formats/import_source.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = size_t{64} << 20;
constexpr size_t kMaxShards = 4096;
constexpr size_t kMaxTensors = 65536;  // In all shards.
constexpr size_t kMaxNameBytes = 255;
constexpr size_t kMaxNamed = 10;  // In one message.

// Links count: FileInFolder says where they lead.
bool Exists(const fs::path& dir, const std::string& name) {
  std::error_code error;
  return fs::exists(fs::symlink_status(dir / name, error));
}

absl::StatusOr<std::string> ShardName(const json& value) {
  if (value.is_string()) {
    const auto& name = value.get_ref<const std::string&>();
    const bool is_plain = std::all_of(name.begin(), name.end(), [](unsigned char c) {
      return c >= 0x20 && c != 0x7f && c != '/';
    });
    if (is_plain && absl::EndsWith(name, ".safetensors") && name.size() <= kMaxNameBytes)
      return name;
  }
  return absl::InvalidArgumentError(absl::StrCat("weight_map has ", ShortJson(value),
                                                 "; must be plain names of .safetensors files"));
}

// File by tensor.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const fs::path& path) {
  LATHE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxIndexBytes));
  LATHE_ASSIGN_OR_RETURN(const json root, ParseStrictObject(text, path.string()));
  const json map = root.value("weight_map", json());
  if (!map.is_object() || map.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path.string(), ": weight_map is ", ShortJson(map), "; must name a file per tensor"));
  }
  std::map<std::string, std::string> file_of;
  for (const auto& [tensor, file] : map.items()) {
    auto name = ShardName(file);
    if (!name.ok()) return Annotate(name.status(), path.string());
    file_of[tensor] = *std::move(name);
  }
  return file_of;
}

absl::Status CheckShards(const fs::path& dir, const std::set<std::string>& shards) {
  if (shards.size() > kMaxShards) {
    return absl::InvalidArgumentError(absl::StrCat((dir / kIndex).string(), ": names ",
                                                   shards.size(), " files; must be at most ",
                                                   kMaxShards));
  }
  std::vector<std::string> missing;
  for (const std::string& shard : shards) {
    if (!Exists(dir, shard)) missing.push_back(shard);
  }
  if (missing.empty()) return absl::OkStatus();
  const size_t named = std::min(missing.size(), kMaxNamed);
  const auto end = missing.begin() + static_cast<std::ptrdiff_t>(named);
  const std::string more =
      missing.size() > named ? absl::StrCat(" and ", missing.size() - named, " more") : "";
  return absl::NotFoundError(
      absl::StrCat(dir.string(), ": is missing ", absl::StrJoin(missing.begin(), end, ", "), more,
                   ", of the ", shards.size(), " shards that ", kIndex, " names"));
}

}  // namespace

absl::Status WeightFiles::Look(const fs::path& dir) {
  if (Exists(dir, kSingle) || Exists(dir, kIndex)) return absl::OkStatus();
  for (const char* other :
       {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"}) {
    if (!Exists(dir, other)) continue;
    return absl::UnimplementedError(absl::StrCat(dir.string(), ": has ", other, "; supported are ",
                                                 kSingle, " and the shards of ", kIndex));
  }
  return absl::NotFoundError(absl::StrCat(dir.string(), ": is missing ", kSingle));
}

absl::StatusOr<WeightFiles> WeightFiles::Open(const fs::path& dir) {
  LATHE_RETURN_IF_ERROR(Look(dir));
  WeightFiles weights;
  if (Exists(dir, kSingle)) {  // Wins over an index, as in transformers.
    weights.label_ = kSingle;
    LATHE_RETURN_IF_ERROR(weights.AddFile(dir, kSingle));
    return weights;
  }
  LATHE_RETURN_IF_ERROR(weights.OpenShards(dir));
  return weights;
}

const TensorView* WeightFiles::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second;
}

absl::Status WeightFiles::OpenShards(const fs::path& dir) {
  LATHE_ASSIGN_OR_RETURN(const fs::path index, FileInFolder(dir, kIndex));
  LATHE_ASSIGN_OR_RETURN(const auto expected, ReadIndex(index));
  std::set<std::string> shards;
  for (const auto& [tensor, file] : expected) shards.insert(file);
  LATHE_RETURN_IF_ERROR(CheckShards(dir, shards));
  label_ = absl::StrCat(shards.size(), " shards of ", kIndex);
  for (const std::string& shard : shards) LATHE_RETURN_IF_ERROR(AddFile(dir, shard));
  for (const auto& [tensor, file] : expected) {
    if (tensors_.count(tensor) > 0 && file_of_[tensor] == file) continue;
    return absl::InvalidArgumentError(absl::StrCat(index.string(), ": says that tensor ",
                                                   ShortJson(tensor), " is in ", file,
                                                   ", which has none of that name"));
  }
  return absl::OkStatus();
}

absl::Status WeightFiles::AddFile(const fs::path& dir, const std::string& name) {
  LATHE_ASSIGN_OR_RETURN(const fs::path path, FileInFolder(dir, name));
  LATHE_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  files_.push_back(std::move(file));
  if (tensors_.size() + files_.back().tensors().size() > kMaxTensors) {
    return absl::InvalidArgumentError(absl::StrCat(dir.string(), ": has more than the ",
                                                   kMaxTensors, " tensors allowed, up to ", name));
  }
  for (const TensorView& tensor : files_.back().tensors()) {
    if (file_of_.emplace(tensor.name, name).second) {
      tensors_[tensor.name] = &tensor;
      continue;
    }
    return absl::InvalidArgumentError(absl::StrCat(dir.string(), ": tensor ",
                                                   ShortJson(tensor.name), " is in ",
                                                   file_of_[tensor.name], " and in ", name));
  }
  return absl::OkStatus();
}

}  // namespace lathe
