#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/sha256.h"
#include "common/blob/blob_store.h"

namespace lathe {

// Takes in the bytes of one blob from a client, chunk by chunk, and checks them. Bytes that are
// there already are compared by their hash and not written again. Thread-compatible.
class BlobReceiver {
 public:
  // Errors: as BlobStore::Begin, but a complete blob is fine.
  static absl::StatusOr<BlobReceiver> Start(BlobStore& store, const BlobRef& blob);

  absl::Status Append(absl::string_view chunk);
  // InvalidArgument: size or sha256 do not match. REQUIRES: called once, last.
  absl::Status Commit();
  // Bytes that are still to come.
  int64_t missing() const { return blob_.size - received_; }

 private:
  explicit BlobReceiver(BlobRef blob) : blob_(std::move(blob)) {}

  BlobRef blob_;
  int64_t received_ = 0;
  std::unique_ptr<BlobStore::Writer> writer_;  // Null: the blob is complete already.
  Sha256 hash_;                                // Without a writer only.
};

}  // namespace lathe
