#include "coordinator/service/blob_receiver.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace lathe {

absl::StatusOr<BlobReceiver> BlobReceiver::Start(BlobStore& store, const BlobRef& blob) {
  BlobReceiver receiver(blob);
  auto writer = store.BeginFresh(blob);
  if (writer.ok()) {
    receiver.writer_ = std::make_unique<BlobStore::Writer>(*std::move(writer));
  } else if (!absl::IsAlreadyExists(writer.status())) {
    return writer.status();
  }
  return receiver;
}

absl::Status BlobReceiver::Append(absl::string_view chunk) {
  received_ += static_cast<int64_t>(chunk.size());
  if (received_ > blob_.size) {
    return absl::InvalidArgumentError(
        absl::StrCat("got ", received_, " bytes; ", blob_.size, " were announced"));
  }
  if (writer_ != nullptr) return writer_->Append(chunk);
  hash_.Update(chunk);
  return absl::OkStatus();
}

absl::Status BlobReceiver::Commit() {
  if (received_ != blob_.size) {
    return absl::InvalidArgumentError(
        absl::StrCat("got ", received_, " bytes; ", blob_.size, " were announced"));
  }
  if (writer_ != nullptr) {
    absl::Status status = writer_->Commit();
    if (!absl::IsDataLoss(status)) return status;
    return absl::InvalidArgumentError(status.message());
  }
  const std::string found = hash_.FinishHex();
  if (found == blob_.sha256) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("sha256 was announced as ", blob_.sha256, "; the bytes have ", found));
}

}  // namespace lathe
