#include "common/blob/blob_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/fault/fault.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

bool IsSha256(absl::string_view text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

absl::Status NotHere(absl::string_view sha256) {
  return absl::NotFoundError(absl::StrCat("blob ", sha256.substr(0, 64), ": not in the store"));
}

int64_t FileSize(const fs::path& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  return error ? 0 : static_cast<int64_t>(size);
}

// InfiniteFuture if it is gone.
absl::Time LastUse(const fs::path& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return absl::InfiniteFuture();
  return absl::TimeFromTimespec(info.st_mtim);
}

}  // namespace

absl::Status Validate(const BlobRef& blob) {
  if (!IsSha256(blob.sha256)) {
    return absl::InvalidArgumentError(absl::StrCat("sha256 is '", blob.sha256.substr(0, 80),
                                                   "'; must be 64 lower-case hexadecimal digits"));
  }
  if (blob.size < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("size of blob is ", blob.size, "; must not be negative"));
  }
  return absl::OkStatus();
}

BlobStore::BlobStore(fs::path root, BlobStoreOptions options, UniqueFd lock)
    : root_(std::move(root)), options_(options), lock_(std::move(lock)) {}

absl::StatusOr<std::unique_ptr<BlobStore>> BlobStore::Open(fs::path root,
                                                           BlobStoreOptions options) {
  LATHE_RETURN_IF_ERROR(MakeFolder(root, 0700));
  LATHE_RETURN_IF_ERROR(MakeFolder(root / "blobs", 0700));
  LATHE_RETURN_IF_ERROR(MakeFolder(root / "partial", 0700));
  LATHE_ASSIGN_OR_RETURN(UniqueFd lock,
                         LockFile(root / "lock", absl::StrCat("blob folder ", root.string(),
                                                              " is in use by another process")));
  std::unique_ptr<BlobStore> store(new BlobStore(std::move(root), options, std::move(lock)));
  LATHE_RETURN_IF_ERROR(store->Scan());
  return store;
}

absl::Status BlobStore::Scan() {
  std::error_code error;
  const MutexLock lock(mutex_);
  for (fs::recursive_directory_iterator it(root_ / "blobs", error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!it->is_regular_file() || !IsSha256(name)) continue;
    sizes_[name] = FileSize(it->path());
    total_bytes_ += sizes_[name];
  }
  return error ? ErrnoToStatus(error.value(), absl::StrCat(root_.string(), ": list"))
               : absl::OkStatus();
}

fs::path BlobStore::BlobPath(const std::string& sha256) const {
  return root_ / "blobs" / sha256.substr(0, 2) / sha256;
}

fs::path BlobStore::PartPath(const std::string& sha256) const { return root_ / "partial" / sha256; }

BlobStore::Info BlobStore::Stat(const std::string& sha256) const {
  if (!IsSha256(sha256)) return {};
  {
    const MutexLock lock(mutex_);
    if (const auto found = sizes_.find(sha256); found != sizes_.end()) return {found->second, true};
  }
  return {FileSize(PartPath(sha256)), false};
}

// Marks the blob as being written.
absl::Status BlobStore::Admit(const BlobRef& blob) {
  LATHE_RETURN_IF_ERROR(Validate(blob));
  if (blob.size > options_.max_blob_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("blob has ", blob.size, " bytes; at most ",
                                                     options_.max_blob_bytes, " are allowed"));
  }
  const MutexLock lock(mutex_);
  if (sizes_.contains(blob.sha256)) {
    return absl::AlreadyExistsError(absl::StrCat("blob ", blob.sha256, ": is complete"));
  }
  if (options_.max_total_bytes > 0 && total_bytes_ + blob.size > options_.max_total_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("blob store holds ", total_bytes_,
                                                     " bytes, got ", blob.size, " more; at most ",
                                                     options_.max_total_bytes, " are allowed"));
  }
  if (!writing_.insert(blob.sha256).second) {
    return absl::AbortedError(absl::StrCat("blob ", blob.sha256, ": another upload is under way"));
  }
  return absl::OkStatus();
}

absl::StatusOr<BlobStore::Writer> BlobStore::Begin(const BlobRef& blob, int64_t offset) {
  return Open(blob, offset, /*truncate=*/false);
}

absl::StatusOr<BlobStore::Writer> BlobStore::BeginFresh(const BlobRef& blob) {
  return Open(blob, 0, /*truncate=*/true);
}

absl::StatusOr<BlobStore::Writer> BlobStore::Open(const BlobRef& blob, int64_t offset,
                                                  bool truncate) {
  LATHE_RETURN_IF_ERROR(Admit(blob));
  // From here on the writer gives the mark back, whatever happens.
  Writer writer(*this, blob, UniqueFd(), offset);
  const fs::path path = PartPath(blob.sha256);
  const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND | (truncate ? O_TRUNC : 0);
  writer.fd_ = UniqueFd(open(path.c_str(), flags, 0600));
  if (!writer.fd_.valid()) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": open"));
  const int64_t held = FileSize(path);
  if (offset != held) {
    return absl::OutOfRangeError(absl::StrCat("offset of blob ", blob.sha256, " is ", offset,
                                              "; must be ", held, ", the bytes held"));
  }
  return writer;
}

absl::Status BlobStore::Publish(const BlobRef& blob) {
  const fs::path part = PartPath(blob.sha256);
  const fs::path target = BlobPath(blob.sha256);
  LATHE_RETURN_IF_ERROR(fault::Hit("blob.fsync"));
  LATHE_RETURN_IF_ERROR(FsyncFile(part));
  LATHE_RETURN_IF_ERROR(MakeFolder(target.parent_path(), 0700));
  LATHE_RETURN_IF_ERROR(fault::Hit("blob.rename"));
  if (chmod(part.c_str(), 0400) != 0 || rename(part.c_str(), target.c_str()) != 0) {
    return ErrnoToStatus(errno, absl::StrCat(target.string(), ": rename"));
  }
  LATHE_RETURN_IF_ERROR(fault::Hit("blob.renamed"));
  LATHE_RETURN_IF_ERROR(FsyncFolder(target.parent_path()));
  LATHE_RETURN_IF_ERROR(FsyncFolder(root_ / "blobs"));
  LATHE_RETURN_IF_ERROR(fault::Hit("blob.published"));
  const MutexLock lock(mutex_);
  sizes_[blob.sha256] = blob.size;
  total_bytes_ += blob.size;
  return absl::OkStatus();
}

void BlobStore::Release(const std::string& sha256) {
  const MutexLock lock(mutex_);
  writing_.erase(sha256);
}

absl::StatusOr<BlobRef> BlobStore::AddFile(const fs::path& path) {
  LATHE_ASSIGN_OR_RETURN(const std::string sha256, Sha256OfFile(path));
  BlobRef blob{sha256, FileSize(path)};
  auto writer = BeginFresh(blob);
  if (absl::IsAlreadyExists(writer.status())) return blob;
  if (!writer.ok()) return writer.status();
  LATHE_RETURN_IF_ERROR(
      ReadInChunks(path, [&](absl::string_view bytes) { return writer->Append(bytes); }));
  LATHE_RETURN_IF_ERROR(writer->Commit());
  return blob;
}

absl::StatusOr<std::string> BlobStore::Read(const std::string& sha256, int64_t offset,
                                            size_t max_bytes) const {
  const Info info = Stat(sha256);
  if (!info.complete) return NotHere(sha256);
  if (offset < 0 || offset > info.size) {
    return absl::OutOfRangeError(absl::StrCat("offset of blob ", sha256, " is ", offset,
                                              "; must be in [0, ", info.size, "]"));
  }
  const fs::path path = BlobPath(sha256);
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": open"));
  std::string bytes(
      static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(max_bytes), info.size - offset)),
      '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = pread(fd.get(), bytes.data() + done, bytes.size() - done,
                              offset + static_cast<int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": read"));
    if (got == 0) return absl::DataLossError(absl::StrCat(path.string(), ": is cut"));
    done += static_cast<size_t>(got);
  }
  return bytes;
}

absl::StatusOr<fs::path> BlobStore::PathOf(const std::string& sha256) const {
  if (!Stat(sha256).complete) return NotHere(sha256);
  fs::path path = BlobPath(sha256);
  // The time of last use, which EvictTo() goes by.
  utimensat(AT_FDCWD, path.c_str(), nullptr, 0);
  return path;
}

absl::Status BlobStore::Remove(const std::string& sha256) {
  if (!IsSha256(sha256)) return absl::OkStatus();
  {
    const MutexLock lock(mutex_);
    if (writing_.contains(sha256)) return absl::OkStatus();
    if (const auto found = sizes_.find(sha256); found != sizes_.end()) {
      total_bytes_ -= found->second;
      sizes_.erase(found);
    }
  }
  for (const fs::path& path : {BlobPath(sha256), PartPath(sha256)}) {
    if (unlink(path.c_str()) != 0 && errno != ENOENT) {
      return ErrnoToStatus(errno, absl::StrCat(path.string(), ": unlink"));
    }
  }
  return absl::OkStatus();
}

absl::Status BlobStore::EvictTo(int64_t max_bytes, const std::set<std::string>& keep) {
  std::vector<std::pair<fs::file_time_type, std::string>> by_age;
  {
    const MutexLock lock(mutex_);
    for (const auto& [sha256, size] : sizes_) {
      if (!keep.contains(sha256)) by_age.emplace_back(fs::file_time_type{}, sha256);
    }
  }
  for (auto& [time, sha256] : by_age) {
    std::error_code error;
    time = fs::last_write_time(BlobPath(sha256), error);
  }
  std::sort(by_age.begin(), by_age.end());
  for (const auto& [time, sha256] : by_age) {
    if (total_bytes() <= max_bytes) break;
    LATHE_RETURN_IF_ERROR(Remove(sha256));
  }
  return absl::OkStatus();
}

absl::Status BlobStore::RemoveUnused(const std::set<std::string>& keep, absl::Time unused_since) {
  std::set<std::string> unused;
  for (const char* folder : {"blobs", "partial"}) {
    std::error_code error;
    for (fs::recursive_directory_iterator it(root_ / folder, error), end; !error && it != end;
         it.increment(error)) {
      const std::string name = it->path().filename().string();
      if (!IsSha256(name) || keep.contains(name)) continue;
      if (LastUse(it->path()) < unused_since) unused.insert(name);
    }
    if (error) return ErrnoToStatus(error.value(), absl::StrCat(root_.string(), ": list"));
  }
  for (const std::string& sha256 : unused) LATHE_RETURN_IF_ERROR(Remove(sha256));
  return absl::OkStatus();
}

int64_t BlobStore::total_bytes() const {
  const MutexLock lock(mutex_);
  return total_bytes_;
}

BlobStore::Writer::Writer(BlobStore& store, BlobRef blob, UniqueFd fd, int64_t offset)
    : store_(&store), blob_(std::move(blob)), fd_(std::move(fd)), offset_(offset) {}

BlobStore::Writer::Writer(Writer&& other) noexcept
    : store_(std::exchange(other.store_, nullptr)),
      blob_(std::move(other.blob_)),
      fd_(std::move(other.fd_)),
      offset_(other.offset_) {}

BlobStore::Writer::~Writer() {
  if (store_ != nullptr) store_->Release(blob_.sha256);
}

absl::Status BlobStore::Writer::Append(absl::string_view bytes) {
  if (static_cast<int64_t>(bytes.size()) > blob_.size - offset_) {
    return absl::InvalidArgumentError(absl::StrCat("blob ", blob_.sha256, " got ",
                                                   offset_ + static_cast<int64_t>(bytes.size()),
                                                   " bytes; it was announced with ", blob_.size));
  }
  LATHE_RETURN_IF_ERROR(fault::Hit("blob.write"));
  LATHE_RETURN_IF_ERROR(WriteAll(fd_.get(), bytes, absl::StrCat("blob ", blob_.sha256)));
  offset_ += static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status BlobStore::Writer::Commit() {
  if (offset_ != blob_.size) {
    return absl::DataLossError(absl::StrCat("blob ", blob_.sha256, " got ", offset_,
                                            " bytes; it was announced with ", blob_.size));
  }
  // Read back from the file: what an earlier process wrote before a resume counts as well.
  LATHE_ASSIGN_OR_RETURN(const std::string found, Sha256OfFile(store_->PartPath(blob_.sha256)));
  if (found != blob_.sha256) {
    unlink(store_->PartPath(blob_.sha256).c_str());
    return absl::DataLossError(
        absl::StrCat("blob was announced as sha256 ", blob_.sha256, "; its bytes have ", found));
  }
  absl::Status status = store_->Publish(blob_);
  std::exchange(store_, nullptr)->Release(blob_.sha256);
  return status;
}

}  // namespace lathe
