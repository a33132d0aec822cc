#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/blob_ref.h"
#include "common/base/file.h"
#include "common/base/mutex.h"

// Bytes on disk, named by their content: the coordinator's artifact store and the agents' caches.
//
//   ROOT/blobs/ab/abcd...   complete, verified, read-only
//   ROOT/partial/abcd...    an upload that can go on where it stopped

namespace lathe {

// InvalidArgument unless sha256 has its form and size is not negative.
absl::Status Validate(const BlobRef& blob);

struct BlobStoreOptions {
  int64_t max_blob_bytes = int64_t{64} << 30;  // A larger blob is refused.
  int64_t max_total_bytes = 0;                 // Of all blobs together; 0: as the disk allows.
};

// Thread-safe. One process per root: Open takes a lock on the folder.
class BlobStore {
 public:
  struct Info {
    int64_t size = 0;  // Bytes held, of a part or of the whole.
    bool complete = false;
  };
  class Writer;

  // Creates what is missing (mode 0700). FailedPrecondition: another process holds the folder.
  static absl::StatusOr<std::unique_ptr<BlobStore>> Open(std::filesystem::path root,
                                                         BlobStoreOptions options = {});

  Info Stat(const std::string& sha256) const;

  // Starts or goes on with an upload. OutOfRange: offset is not the number of bytes held.
  // AlreadyExists: the blob is complete. Aborted: another upload of it is under way.
  // ResourceExhausted: over a limit. The store must outlive the writer.
  absl::StatusOr<Writer> Begin(const BlobRef& blob, int64_t offset);

  // Begin(blob, 0) that drops a part left over from before.
  absl::StatusOr<Writer> BeginFresh(const BlobRef& blob);

  // Takes in a file by copy: for what was made on this machine.
  absl::StatusOr<BlobRef> AddFile(const std::filesystem::path& path);

  // At most max_bytes from offset; empty at the end. NotFound: not complete here. OutOfRange:
  // offset is beyond the end.
  absl::StatusOr<std::string> Read(const std::string& sha256, int64_t offset,
                                   size_t max_bytes) const;

  // Where a complete blob lies: to be mapped or hard-linked, never written. NotFound.
  absl::StatusOr<std::filesystem::path> PathOf(const std::string& sha256) const;

  // Removes a complete blob or a part that nobody writes. Missing ones are fine.
  absl::Status Remove(const std::string& sha256);

  // Removes blobs outside `keep`, least recently used (read or written) first, until at most
  // max_bytes are held.
  absl::Status EvictTo(int64_t max_bytes, const std::set<std::string>& keep);

  // Removes complete blobs and parts outside `keep` that nobody has read or written since
  // `unused_since`: what was sent and never named, or cut off.
  absl::Status RemoveUnused(const std::set<std::string>& keep, absl::Time unused_since);

  int64_t total_bytes() const;  // Of complete blobs.

 private:
  BlobStore(std::filesystem::path root, BlobStoreOptions options, UniqueFd lock);
  std::filesystem::path BlobPath(const std::string& sha256) const;
  std::filesystem::path PartPath(const std::string& sha256) const;
  absl::Status Scan();
  absl::Status Admit(const BlobRef& blob);
  absl::StatusOr<Writer> Open(const BlobRef& blob, int64_t offset, bool truncate);
  absl::Status Publish(const BlobRef& blob);
  void Release(const std::string& sha256);

  const std::filesystem::path root_;
  const BlobStoreOptions options_;
  const UniqueFd lock_;
  mutable Mutex mutex_;  // Never held across a read, write or fsync.
  std::map<std::string, int64_t> sizes_ ABSL_GUARDED_BY(mutex_);  // Complete blobs.
  std::set<std::string> writing_ ABSL_GUARDED_BY(mutex_);
  int64_t total_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

// One upload. Thread-compatible. Destroyed without Commit(): the part stays and can be continued.
class BlobStore::Writer {
 public:
  Writer(Writer&& other) noexcept;
  Writer& operator=(Writer&&) = delete;
  ~Writer();

  // InvalidArgument: more bytes than the blob has. ResourceExhausted: the disk is full.
  absl::Status Append(absl::string_view bytes);

  // Verifies size and sha256, syncs and publishes. DataLoss: they do not match; the part is gone.
  // REQUIRES: called once, last.
  absl::Status Commit();

 private:
  friend class BlobStore;
  Writer(BlobStore& store, BlobRef blob, UniqueFd fd, int64_t offset);

  BlobStore* store_;  // Null after a move or Commit().
  BlobRef blob_;
  UniqueFd fd_;
  int64_t offset_;
};

}  // namespace lathe
