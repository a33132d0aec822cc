#include "common/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <utility>

#include "common/base/file.h"
#include "common/base/mutex.h"
#include "common/base/status.h"

namespace lathe {
namespace {

// What is mapped, for the signal handler: it may neither allocate nor lock.
struct Mapping {
  std::atomic<uintptr_t> begin = 0;  // 0: free.
  std::atomic<size_t> size = 0;
  char path[256] = {};  // Its end, if it is longer.
};

// A model has at most 4096 shards; what finds no room only goes without its name.
Mapping mappings[8192];
Mutex mappings_mu;  // Writers only.

void Register(absl::string_view bytes, absl::string_view path) {
  const MutexLock lock(mappings_mu);
  for (Mapping& mapping : mappings) {
    if (mapping.begin != 0) continue;
    const size_t skipped = path.size() - std::min(path.size(), sizeof(mapping.path) - 1);
    const absl::string_view end = path.substr(skipped);
    std::memcpy(mapping.path, end.data(), end.size());
    mapping.path[end.size()] = '\0';
    mapping.size = bytes.size();
    mapping.begin = reinterpret_cast<uintptr_t>(bytes.data());
    return;
  }
}

void Unregister(absl::string_view bytes) {
  const MutexLock lock(mappings_mu);
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  for (Mapping& mapping : mappings) {
    if (mapping.begin != begin) continue;
    mapping.begin = 0;
    return;
  }
}

void Say(const char* text) {
  const ssize_t unused = write(STDERR_FILENO, text, std::strlen(text));
  (void)unused;
}

const char* PathAt(uintptr_t address) {
  for (const Mapping& mapping : mappings) {
    const uintptr_t begin = mapping.begin;
    // The kernel rounds a mapping up to whole pages.
    if (begin != 0 && address >= begin && address - begin < mapping.size + 65536) {
      return mapping.path;
    }
  }
  return "a mapped file";
}

// The handler is gone when it begins (SA_RESETHAND): the same read raises the signal again.
void OnLostMapping(int /*signal*/, siginfo_t* info, void* /*context*/) {
  Say(program_invocation_short_name);
  Say(": ");
  Say(PathAt(reinterpret_cast<uintptr_t>(info->si_addr)));
  Say(": became shorter or cannot be read any more; it must stay as it is while it is used\n");
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": open"));
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) {
    return ErrnoToStatus(errno, absl::StrCat(path.string(), ": stat"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": is not a regular file"));
  }
  if (info.st_size == 0) return MappedFile(absl::string_view());
  const auto size = static_cast<size_t>(info.st_size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return ErrnoToStatus(errno, absl::StrCat(path.string(), ": mmap"));
  const absl::string_view bytes(static_cast<const char*>(data), size);
  Register(bytes, path.native());
  return MappedFile(bytes);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, absl::string_view())) {}

MappedFile::~MappedFile() {
  if (bytes_.empty()) return;
  Unregister(bytes_);
  munmap(const_cast<char*>(bytes_.data()), bytes_.size());
}

void ReleasePages(absl::string_view mapped) {
  // Whole pages only: what shares one with a neighbour stays.
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto data = reinterpret_cast<uintptr_t>(mapped.data());
  const uintptr_t begin = (data + page - 1) / page * page;
  const uintptr_t end = (data + mapped.size()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

void ExplainLostMappings() {
  struct sigaction action {};
  action.sa_sigaction = OnLostMapping;
  action.sa_flags = SA_SIGINFO | SA_RESETHAND;
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace lathe
