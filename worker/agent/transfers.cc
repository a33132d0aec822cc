#include "worker/agent/transfers.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/exit_codes.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/fault/fault.h"
#include "worker/agent/file_tree.h"

namespace lathe::agent {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunkBytes = 1 << 20;
constexpr int kMaxCorruptTries = 3;
constexpr absl::Duration kRetryPause = absl::Seconds(1);

bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsAborted(status) || absl::IsDataLoss(status);
}

absl::Status Stopped() { return absl::CancelledError("stopped"); }

absl::StatusOr<std::string> ReadChunk(int fd, int64_t offset) {
  std::string chunk(kChunkBytes, '\0');
  ssize_t got = 0;
  do {
    got = pread(fd, chunk.data(), chunk.size(), offset);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return ErrnoToStatus(errno, "read");
  chunk.resize(static_cast<size_t>(got));
  return chunk;
}

// Size and hash of what the descriptor holds.
absl::StatusOr<v1::BlobRef> Describe(int fd) {
  v1::BlobRef blob;
  Sha256 hash;
  while (true) {
    LATHE_ASSIGN_OR_RETURN(const std::string chunk, ReadChunk(fd, blob.size()));
    if (chunk.empty()) break;
    hash.Update(chunk);
    blob.set_size(blob.size() + static_cast<int64_t>(chunk.size()));
  }
  blob.set_sha256(hash.FinishHex());
  return blob;
}

}  // namespace

void SessionGate::SetOpen(bool open) {
  const MutexLock lock(mu_);
  if (open && !open_) ++num_openings_;
  open_ = open;
  changed_.notify_all();
}

bool SessionGate::Wait(absl::Duration timeout, const std::stop_token& stop) {
  MutexLock lock(mu_);
  return changed_.wait_for(lock, stop, absl::ToChronoMilliseconds(timeout),
                           [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return open_; });
}

void SessionGate::Pause(absl::Duration duration, const std::stop_token& stop) {
  MutexLock lock(mu_);
  const int64_t before = num_openings_;
  changed_.wait_for(lock, stop, absl::ToChronoMilliseconds(duration),
                    [this, before]()
                        ABSL_NO_THREAD_SAFETY_ANALYSIS { return num_openings_ != before; });
}

// Bytes that arrive wrong are asked for again a few times; a coordinator that is away, for as long
// as there is patience.
absl::Status Transfers::Retry(absl::FunctionRef<absl::Status()> attempt,
                              const std::stop_token& stop) {
  const absl::Time give_up = absl::Now() + patience_;
  int corrupt = 0;
  while (true) {
    if (!gate_.Wait(give_up - absl::Now(), stop)) {
      return stop.stop_requested() ? Stopped()
                                   : absl::UnavailableError("the coordinator did not come back");
    }
    const absl::Status status = attempt();
    if (stop.stop_requested()) return Stopped();
    if (status.ok() || !MayPass(status) || absl::Now() > give_up) return status;
    if (absl::IsDataLoss(status) && ++corrupt == kMaxCorruptTries) return status;
    if (!absl::IsDataLoss(status)) gate_.Pause(kRetryPause, stop);
  }
}

absl::Status Transfers::FetchTree(const v1::FileTree& tree, const fs::path& folder, Rehash rehash,
                                  const std::stop_token& stop) {
  LATHE_RETURN_IF_ERROR(ValidateTree(tree));
  LATHE_RETURN_IF_ERROR(MakeFolder(folder, 0700));
  for (const v1::FileRef& file : tree.files()) {
    LATHE_RETURN_IF_ERROR(Annotate(FetchFile(file, folder / file.path(), rehash, stop),
                                   absl::StrCat("file ", file.path())));
  }
  probe_.SetCacheBytes(cache_.Trim());
  return absl::OkStatus();
}

absl::Status Transfers::FetchFile(const v1::FileRef& file, const fs::path& target, Rehash rehash,
                                  const std::stop_token& stop) {
  const auto download = [&](int64_t offset, BlobCache::Sink sink) -> absl::Status {
    LATHE_RETURN_IF_ERROR(fault::Hit("agent.download"));
    const auto counted = [&](absl::string_view bytes) {
      probe_.OnDownload(static_cast<int64_t>(bytes.size()));
      return sink(bytes);
    };
    return channel_.DownloadBlob(file.blob().sha256(), offset, counted, stop);
  };
  const auto place = [&](const fs::path& blob) { return PlaceFile(blob, target); };
  return Retry(
      [&] {
        return cache_.Fetch(BlobRef{file.blob().sha256(), file.blob().size()}, rehash, download,
                            place);
      },
      stop);
}

absl::StatusOr<v1::FileTree> Transfers::UploadFolder(const fs::path& folder,
                                                     const std::string& job_id, int64_t attempt,
                                                     const std::stop_token& stop) {
  LATHE_ASSIGN_OR_RETURN(const std::vector<std::string> paths, ListOutputs(folder));
  v1::FileTree tree;
  for (const std::string& path : paths) {
    v1::FileRef& file = *tree.add_files();
    file.set_path(path);
    const UniqueFd fd(open((folder / path).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat("upload of ", path));
    LATHE_ASSIGN_OR_RETURN(*file.mutable_blob(), Describe(fd.get()));
    pb::UploadBlobStart start;
    *start.mutable_blob() = file.blob();
    start.set_job_id(job_id);
    start.set_attempt(attempt);
    LATHE_RETURN_IF_ERROR(Annotate(Retry([&] { return UploadOnce(fd.get(), start, stop); }, stop),
                                   absl::StrCat("upload of ", path)));
  }
  return tree;
}

absl::Status Transfers::UploadOnce(int fd, pb::UploadBlobStart start, const std::stop_token& stop) {
  LATHE_ASSIGN_OR_RETURN(const pb::GetBlobStatusResponse held,
                         channel_.GetBlobStatus(start.blob().sha256(), stop));
  if (held.complete()) return absl::OkStatus();
  LATHE_RETURN_IF_ERROR(fault::Hit("agent.upload"));
  int64_t offset = std::clamp<int64_t>(held.size(), 0, start.blob().size());
  start.set_offset(offset);
  const auto source = [&]() -> absl::StatusOr<std::string> {
    LATHE_ASSIGN_OR_RETURN(std::string chunk, ReadChunk(fd, offset));
    offset += static_cast<int64_t>(chunk.size());
    probe_.OnUpload(static_cast<int64_t>(chunk.size()));
    return chunk;
  };
  const absl::Status status = channel_.UploadBlob(start, source, stop);
  return absl::IsResourceExhausted(status) ? MarkDiskFull(Annotate(status, "the coordinator"))
                                           : status;
}

}  // namespace lathe::agent
