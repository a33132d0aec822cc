#include "worker/agent/blob_cache.h"

#include <algorithm>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace lathe::agent {
namespace {

// A crash of the machine may have cut the file after it was published.
bool IsWhole(const BlobStore& store, const BlobRef& blob, Rehash rehash) {
  const absl::StatusOr<std::filesystem::path> path = store.PathOf(blob.sha256);
  std::error_code error;
  const bool has_size =
      path.ok() && std::filesystem::file_size(*path, error) == static_cast<uintmax_t>(blob.size) &&
      !error;
  if (!has_size || rehash == Rehash::kNo) return has_size;
  const absl::StatusOr<std::string> found = Sha256OfFile(*path);
  return found.ok() && *found == blob.sha256;
}

// Unavailable if the stream ended early: what came stays and the next try goes on there.
absl::Status Receive(const BlobRef& blob, int64_t offset, BlobStore::Writer& writer,
                     BlobCache::Download download) {
  int64_t size = offset;
  const auto sink = [&](absl::string_view bytes) -> absl::Status {
    size += static_cast<int64_t>(bytes.size());
    if (size > blob.size) {
      return absl::DataLossError(absl::StrCat("blob ", blob.sha256, ": more than the ", blob.size,
                                              " bytes that were announced"));
    }
    return writer.Append(bytes);
  };
  if (size < blob.size) LATHE_RETURN_IF_ERROR(download(offset, sink));
  if (size == blob.size) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("blob ", blob.sha256, ": the stream ended after ",
                                             size, " of ", blob.size, " bytes"));
}

absl::Status ReceiveAndCommit(BlobStore& store, const BlobRef& blob, BlobCache::Download download) {
  const int64_t held = store.Stat(blob.sha256).size;
  const int64_t offset = held > blob.size ? 0 : held;
  LATHE_ASSIGN_OR_RETURN(BlobStore::Writer writer,
                         offset == 0 ? store.BeginFresh(blob) : store.Begin(blob, offset));
  LATHE_RETURN_IF_ERROR(Receive(blob, offset, writer, download));
  return writer.Commit();
}

}  // namespace

absl::Status BlobCache::Fetch(const BlobRef& blob, Rehash rehash, Download download, Use use) {
  {
    MutexLock lock(mu_);
    changed_.wait(lock, [&] { return !held_.contains(blob.sha256); });
    held_.insert(blob.sha256);
  }
  const auto release = absl::MakeCleanup([&] {
    const MutexLock lock(mu_);
    held_.erase(blob.sha256);
    changed_.notify_all();
  });
  LATHE_RETURN_IF_ERROR(FetchHeld(blob, rehash, download));
  LATHE_ASSIGN_OR_RETURN(const std::filesystem::path path, store_->PathOf(blob.sha256));
  return use(path);
}

absl::Status BlobCache::FetchHeld(const BlobRef& blob, Rehash rehash, Download download) {
  if (IsWhole(*store_, blob, rehash)) return absl::OkStatus();
  if (store_->Stat(blob.sha256).complete) LATHE_RETURN_IF_ERROR(store_->Remove(blob.sha256));
  const absl::Status status = ReceiveAndCommit(*store_, blob, download);
  // Bytes that are wrong must not be the beginning of the next try.
  if (absl::IsDataLoss(status)) store_->Remove(blob.sha256).IgnoreError();
  return status;
}

int64_t BlobCache::Trim() {
  std::set<std::string> held;
  {
    const MutexLock lock(mu_);
    held = held_;
  }
  store_->EvictTo(max_bytes_, held).IgnoreError();
  return store_->total_bytes();
}

}  // namespace lathe::agent
