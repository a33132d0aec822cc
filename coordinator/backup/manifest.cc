#include "coordinator/backup/manifest.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/blob/blob_store.h"
#include "coordinator/store/documents.h"
#include "coordinator/store/sqlite_store.h"
#include "nlohmann/json.hpp"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kManifest[] = "manifest.json";
constexpr char kManifestHash[] = "manifest.sha256";

std::string HashLine(const std::string& manifest) {
  return absl::StrCat(Sha256Hex(manifest), "  ", kManifest, "\n");
}

absl::Status Damaged(const fs::path& folder, absl::string_view why) {
  return absl::DataLossError(
      absl::StrCat("backup ", folder.string(), ": ", why, "; it is damaged: take another backup"));
}

// What a newer program wrote cannot be judged by this one.
absl::Status CheckVersions(const fs::path& folder, const BackupManifest& manifest) {
  for (const auto& [what, got, known] :
       {std::tuple("format", manifest.format, kBackupFormat),
        std::tuple("database version", manifest.schema, kSchemaVersion)}) {
    if (got <= known) continue;
    return absl::FailedPreconditionError(absl::StrCat("backup ", folder.string(), ": ", what,
                                                      " is ", got, "; this program knows up to ",
                                                      known, ": use the newer program"));
  }
  return absl::OkStatus();
}

absl::Status CheckFiles(const fs::path& folder, const FileTree& files) {
  for (const FileRef& file : files) {
    if (!IsPathBelow(file.path) || !Validate(file.blob).ok()) {
      return Damaged(folder, absl::StrCat("file '", file.path.substr(0, 200),
                                          "' must have a path below it, a size and a sha256"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

int64_t BackupManifest::TotalBytes() const {
  int64_t bytes = 0;
  for (const FileRef& file : files) bytes += file.blob.size;
  return bytes;
}

absl::Status WriteManifest(const fs::path& folder, const BackupManifest& manifest) {
  const Json json = {{"format", manifest.format},
                     {"schema", manifest.schema},
                     {"create_time_us", absl::ToUnixMicros(manifest.create_time)},
                     {"jobs", manifest.jobs},
                     {"files", Json::parse(TreeToJson(manifest.files))}};
  const std::string text = json.dump(1) + "\n";
  LATHE_RETURN_IF_ERROR(WriteFileAtomically(folder / kManifestHash, HashLine(text), 0600));
  return WriteFileAtomically(folder / kManifest, text, 0600);
}

absl::StatusOr<BackupManifest> ReadManifest(const fs::path& folder) {
  const auto text = ReadFile(folder / kManifest);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(absl::StrCat("backup ", folder.string(), ": has no ", kManifest,
                                            "; must be a folder that lathe admin backup wrote"));
  }
  if (!text.ok()) return text.status();
  const auto hash = ReadFile(folder / kManifestHash, 4096);
  if (!hash.ok() || *hash != HashLine(*text)) {
    return Damaged(folder, absl::StrCat(kManifest, " is not what ", kManifestHash, " says"));
  }
  const Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Damaged(folder, absl::StrCat(kManifest, " is not JSON"));
  const auto number = [&](const char* key) {
    const auto found = json.find(key);
    return found != json.end() && found->is_number_integer() ? found->get<int64_t>() : int64_t{0};
  };
  BackupManifest manifest{.format = number("format"),
                          .schema = number("schema"),
                          .create_time = absl::FromUnixMicros(number("create_time_us")),
                          .jobs = number("jobs"),
                          .files = {}};
  LATHE_RETURN_IF_ERROR(CheckVersions(folder, manifest));
  LATHE_ASSIGN_OR_RETURN(manifest.files, TreeFromJson(json.value("files", Json::array()).dump()));
  LATHE_RETURN_IF_ERROR(CheckFiles(folder, manifest.files));
  return manifest;
}

}  // namespace lathe
