#include "cli/hub/hub_files.h"

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"

namespace lathe::cli {
namespace {

using nlohmann::json;

constexpr int64_t kMaxFileBytes = int64_t{1} << 42;
constexpr size_t kMaxNameBytes = 200;
constexpr std::array<absl::string_view, 8> kTextFiles = {
    "config.json",     "generation_config.json", "tokenizer.json",          "tokenizer_config.json",
    "tokenizer.model", "spiece.model",           "special_tokens_map.json", "chat_template.jinja"};
constexpr char kIndex[] = "model.safetensors.index.json";

bool IsHex(const std::string& text, size_t digits) {
  return text.size() == digits && std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isxdigit(static_cast<unsigned char>(c)) &&
                  !absl::ascii_isupper(static_cast<unsigned char>(c));
         });
}

// It becomes a file name here.
bool IsPlainName(const std::string& path) {
  return !path.empty() && path.size() <= kMaxNameBytes && path[0] != '.' &&
         std::all_of(path.begin(), path.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' ||
                  c == '-';
         });
}

std::string Text(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

absl::StatusOr<HubFile> FileOf(const json& entry, const std::string& path) {
  HubFile file{.path = path, .size = 0, .sha256 = "", .git_sha1 = Text(entry, "oid")};
  if (entry.contains("size") && entry["size"].is_number_integer()) {
    file.size = entry["size"].get<int64_t>();
  }
  if (entry.contains("lfs") && entry["lfs"].is_object()) {
    file.sha256 = Text(entry["lfs"], "oid");
    file.git_sha1.clear();
  }
  const bool hashed = IsHex(file.sha256, 64) || IsHex(file.git_sha1, 40);
  if (hashed && file.size >= 0 && file.size <= kMaxFileBytes) return file;
  return absl::DataLossError(absl::StrCat("the hub's list has no size or hash for ", path));
}

// "model-00001-of-00002.safetensors"
bool IsShard(absl::string_view path) {
  return absl::StartsWith(path, "model-") && absl::EndsWith(path, ".safetensors");
}

std::vector<HubFile> Matching(const std::vector<HubFile>& files, bool (*wanted)(const HubFile&)) {
  std::vector<HubFile> found;
  std::copy_if(files.begin(), files.end(), std::back_inserter(found), wanted);
  return found;
}

// One file, or an index with its shards: never both, they hold the same tensors.
std::vector<HubFile> SafetensorsOf(const std::vector<HubFile>& files) {
  std::vector<HubFile> whole =
      Matching(files, [](const HubFile& file) { return file.path == "model.safetensors"; });
  if (!whole.empty()) return whole;
  std::vector<HubFile> shards = Matching(
      files, [](const HubFile& file) { return IsShard(file.path) || file.path == kIndex; });
  const bool has_index = std::any_of(shards.begin(), shards.end(),
                                     [](const HubFile& file) { return file.path == kIndex; });
  return has_index && shards.size() > 1 ? shards : std::vector<HubFile>();
}

absl::StatusOr<std::vector<HubFile>> OneGgufOf(const HubReference& reference,
                                               const std::vector<HubFile>& files) {
  std::vector<HubFile> found =
      Matching(files, [](const HubFile& file) { return absl::EndsWith(file.path, ".gguf"); });
  if (found.size() == 1) return found;
  if (found.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(reference.repository(),
                     " has no weights that Lathe reads; allowed are safetensors and GGUF (pickled "
                     "files are never opened)"));
  }
  const auto name = [](std::string* out, const HubFile& file) { out->append(file.path); };
  return absl::InvalidArgumentError(absl::StrCat(reference.repository(), " has ", found.size(),
                                                 " GGUF files (", absl::StrJoin(found, ", ", name),
                                                 "); name one: hf:", reference.repository(), ":",
                                                 found[0].path));
}

}  // namespace

absl::StatusOr<std::string> CommitOf(absl::string_view text) {
  const json answer = json::parse(text, nullptr, /*allow_exceptions=*/false);
  const std::string commit = answer.is_object() ? Text(answer, "sha") : "";
  if (IsHex(commit, 40)) return commit;
  return absl::DataLossError("the hub's answer names no commit");
}

absl::StatusOr<std::vector<HubFile>> FilesOf(absl::string_view text) {
  const json answer = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!answer.is_array()) return absl::DataLossError("the hub's list of files is no list");
  std::vector<HubFile> files;
  for (const json& entry : answer) {
    if (!entry.is_object() || Text(entry, "type") != "file") continue;
    const std::string path = Text(entry, "path");
    if (!IsPlainName(path)) continue;
    auto file = FileOf(entry, path);
    if (!file.ok()) return file.status();
    files.push_back(*std::move(file));
  }
  return files;
}

absl::StatusOr<std::vector<HubFile>> ModelFilesOf(const HubReference& reference,
                                                  const std::vector<HubFile>& files) {
  if (!reference.file.empty()) {
    const auto found = std::find_if(files.begin(), files.end(), [&](const HubFile& file) {
      return file.path == reference.file;
    });
    if (found != files.end()) return std::vector<HubFile>{*found};
    return absl::NotFoundError(
        absl::StrCat(reference.repository(), " has no file ", reference.file));
  }
  std::vector<HubFile> chosen = SafetensorsOf(files);
  if (chosen.empty()) return OneGgufOf(reference, files);
  for (const HubFile& file : files) {
    if (std::find(kTextFiles.begin(), kTextFiles.end(), file.path) != kTextFiles.end()) {
      chosen.push_back(file);
    }
  }
  return chosen;
}

}  // namespace lathe::cli
