#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/mutex.h"
#include "common/blob/blob_store.h"

namespace lathe::agent {

// Whether bytes that were fetched before are hashed again when they are used: a disk may have
// changed them since.
enum class Rehash { kNo, kYes };

// The inputs that assignments have in common, kept between them. Files are handed out to be
// hard-linked: eviction takes only the cache's own name. Thread-safe; a blob that two callers want
// is fetched once.
class BlobCache {
 public:
  using Sink = absl::FunctionRef<absl::Status(absl::string_view)>;
  // Delivers the bytes of the blob from `offset`.
  using Download = absl::FunctionRef<absl::Status(int64_t offset, Sink sink)>;
  using Use = absl::FunctionRef<absl::Status(const std::filesystem::path&)>;

  BlobCache(std::unique_ptr<BlobStore> store, int64_t max_bytes)
      : store_(std::move(store)), max_bytes_(max_bytes) {}

  // Calls `use` with the file of `blob`, fetched if it is not there, was cut or, with Rehash::kYes,
  // was changed; until `use` returns, the file is not evicted. A fetch that breaks leaves what
  // came, and the next one goes on there (Unavailable if the stream ended early). DataLoss: size or
  // hash is wrong; what came is thrown away. ResourceExhausted: the disk is full.
  absl::Status Fetch(const BlobRef& blob, Rehash rehash, Download download, Use use);

  // Removes blobs, least recently used first, until at most max_bytes are left. Returns the bytes
  // that stay.
  int64_t Trim();

 private:
  absl::Status FetchHeld(const BlobRef& blob, Rehash rehash, Download download);

  const std::unique_ptr<BlobStore> store_;
  const int64_t max_bytes_;
  Mutex mu_;
  std::condition_variable_any changed_;
  std::set<std::string> held_ ABSL_GUARDED_BY(mu_);  // Being fetched or used.
};

}  // namespace lathe::agent
