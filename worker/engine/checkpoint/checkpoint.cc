#include "worker/engine/checkpoint/checkpoint.h"

#include <algorithm>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/fault/fault.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

constexpr char kStateName[] = "state.safetensors";
constexpr char kManifestName[] = "manifest.json";
constexpr char kPrefix[] = "step-";
constexpr char kTempPrefix[] = ".checkpoint";
constexpr size_t kMaxManifestBytes = size_t{64} << 20;

std::string NameOf(int64_t step) { return absl::StrFormat("%s%09d", kPrefix, step); }

// Names of complete checkpoints, oldest first: zeros in front, so names sort as steps do.
absl::StatusOr<std::vector<fs::path>> List(const fs::path& folder, absl::string_view prefix) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (absl::StartsWith(it->path().filename().string(), prefix)) found.push_back(it->path());
  }
  if (error == std::errc::no_such_file_or_directory) return found;
  if (error) return ErrnoToStatus(error.value(), absl::StrCat(folder.string(), ": list"));
  std::sort(found.begin(), found.end());
  return found;
}

absl::Status Remove(const fs::path& dir) {
  std::error_code error;
  fs::remove_all(dir, error);
  if (error) return ErrnoToStatus(error.value(), absl::StrCat(dir.string(), ": remove"));
  return absl::OkStatus();
}

absl::Status CheckFile(const fs::path& dir, const CheckpointFile& file) {
  if (file.name != kStateName) {
    return absl::DataLossError(absl::StrCat("names the file '", file.name, "'"));
  }
  const absl::StatusOr<std::string> sha256 = Sha256OfFile(dir / file.name);
  // What a disk cannot read now it may read later.
  if (absl::IsNotFound(sha256.status())) return absl::DataLossError(sha256.status().message());
  LATHE_RETURN_IF_ERROR(sha256.status());
  if (*sha256 == file.sha256) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(file.name, " has sha256 ", *sha256, "; the manifest says ", file.sha256));
}

absl::StatusOr<Checkpoint> Open(const fs::path& dir) {
  LATHE_ASSIGN_OR_RETURN(const std::string text, ReadFile(dir / kManifestName, kMaxManifestBytes));
  LATHE_ASSIGN_OR_RETURN(CheckpointManifest manifest, ParseManifest(text));
  if (manifest.files.size() != 1) return absl::DataLossError("has not one file of state");
  LATHE_RETURN_IF_ERROR(CheckFile(dir, manifest.files[0]));
  LATHE_ASSIGN_OR_RETURN(SafetensorsFile state, SafetensorsFile::Open(dir / kStateName));
  return Checkpoint{std::move(manifest), std::move(state)};
}

}  // namespace

absl::StatusOr<PendingCheckpoint> PendingCheckpoint::Write(const fs::path& folder,
                                                           const std::vector<TensorView>& state) {
  LATHE_RETURN_IF_ERROR(fault::Hit("checkpoint.begin"));
  LATHE_RETURN_IF_ERROR(MakeFolder(folder, 0700));
  LATHE_ASSIGN_OR_RETURN(TempFolder temp, TempFolder::Make(kTempPrefix, folder));
  // Of the bytes that were meant: what a disk made of them is noticed when they are read.
  LATHE_ASSIGN_OR_RETURN(std::string sha256, Sha256OfSafetensors(state));
  const fs::path path = temp.path() / kStateName;
  LATHE_RETURN_IF_ERROR(fault::Hit("checkpoint.write"));
  LATHE_RETURN_IF_ERROR(WriteSafetensors(path, state));
  LATHE_RETURN_IF_ERROR(fault::Hit("checkpoint.written"));
  std::error_code error;
  const auto size = static_cast<int64_t>(fs::file_size(path, error));
  if (error) return ErrnoToStatus(error.value(), absl::StrCat(path.string(), ": size"));
  return PendingCheckpoint(folder, std::move(temp), {kStateName, size, std::move(sha256)});
}

absl::StatusOr<fs::path> PendingCheckpoint::Publish(CheckpointManifest manifest) {
  manifest.files = {state_};
  LATHE_RETURN_IF_ERROR(fault::Hit("checkpoint.manifest"));
  fs::path target = folder_ / NameOf(manifest.step);
  LATHE_RETURN_IF_ERROR(
      WriteFileAtomically(temp_.path() / kManifestName, ManifestToText(manifest)));
  std::error_code error;
  if (fs::exists(target, error)) {
    if (OpenCheckpoint(target).ok()) return target;
    LATHE_RETURN_IF_ERROR(Remove(target));
  }
  LATHE_RETURN_IF_ERROR(fault::Hit("checkpoint.publish"));
  LATHE_RETURN_IF_ERROR(temp_.PublishAs(target));
  return target;
}

absl::StatusOr<Checkpoint> OpenCheckpoint(const fs::path& dir) {
  LATHE_RETURN_IF_ERROR(fault::Hit("resume.open"));
  absl::StatusOr<Checkpoint> checkpoint = Open(dir);
  if (checkpoint.ok()) return checkpoint;
  // A file that is cut cannot be mapped as what it was: damage too.
  const bool damaged = absl::IsInvalidArgument(checkpoint.status());
  const absl::Status status =
      damaged ? absl::DataLossError(checkpoint.status().message()) : checkpoint.status();
  return Annotate(status, absl::StrCat("checkpoint ", dir.filename().string()));
}

absl::StatusOr<std::optional<Checkpoint>> OpenNewestCheckpoint(
    const fs::path& folder, const std::function<void(const absl::Status&)>& damaged) {
  LATHE_ASSIGN_OR_RETURN(const std::vector<fs::path> all, List(folder, kPrefix));
  for (auto dir = all.rbegin(); dir != all.rend(); ++dir) {
    absl::StatusOr<Checkpoint> checkpoint = OpenCheckpoint(*dir);
    if (checkpoint.ok()) return std::optional<Checkpoint>(*std::move(checkpoint));
    damaged(checkpoint.status());
  }
  return std::optional<Checkpoint>();
}

absl::Status KeepNewestCheckpoints(const fs::path& folder, int keep) {
  LATHE_ASSIGN_OR_RETURN(std::vector<fs::path> all, List(folder, kPrefix));
  all.resize(all.size() - std::min(all.size(), static_cast<size_t>(keep)));
  LATHE_ASSIGN_OR_RETURN(const std::vector<fs::path> left, List(folder, kTempPrefix));
  all.insert(all.end(), left.begin(), left.end());
  for (const fs::path& dir : all) {
    LATHE_RETURN_IF_ERROR(fault::Hit("checkpoint.prune"));
    LATHE_RETURN_IF_ERROR(Remove(dir));
  }
  return absl::OkStatus();
}

}  // namespace lathe
