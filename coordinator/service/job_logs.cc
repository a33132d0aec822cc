#include "coordinator/service/job_logs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace lathe {
namespace {

constexpr char kFull[] = "coordinator: the log is full, further lines are dropped\n";

}  // namespace

std::filesystem::path JobLogs::PathOf(const JobId& job) const {
  return folder_ / absl::StrCat(job.value(), ".log");
}

absl::Status JobLogs::Append(const JobId& job, absl::string_view source, absl::string_view text) {
  std::string lines;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    absl::StrAppend(&lines, source.substr(0, 128), ": ", line.substr(0, kMaxLineBytes), "\n");
  }
  const MutexLock lock(mutex_);
  const std::string path = PathOf(job).string();
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat(path, ": open"));
  const int64_t held = lseek(fd.get(), 0, SEEK_END);
  if (held >= max_bytes_) return absl::OkStatus();
  if (held + static_cast<int64_t>(lines.size()) >= max_bytes_) {
    // Padded past the limit by the notice itself: it is written once.
    lines.resize(static_cast<size_t>(max_bytes_ - held));
    lines.resize(lines.rfind('\n') == std::string::npos ? 0 : lines.rfind('\n') + 1);
    lines.append(kFull);
    lines.append(static_cast<size_t>(
                     std::max<int64_t>(0, max_bytes_ - held - static_cast<int64_t>(lines.size()))),
                 '\n');
  }
  if (write(fd.get(), lines.data(), lines.size()) != static_cast<ssize_t>(lines.size())) {
    return ErrnoToStatus(errno == 0 ? ENOSPC : errno, absl::StrCat(path, ": write"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> JobLogs::Read(const JobId& job, int64_t offset,
                                          size_t max_bytes) const {
  const std::string path = PathOf(job).string();
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT) return std::string();
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat(path, ": open"));
  std::string bytes(max_bytes + kMaxLineBytes + 256, '\0');
  const ssize_t got = pread(fd.get(), bytes.data(), bytes.size(), offset);
  if (got < 0) return ErrnoToStatus(errno, absl::StrCat(path, ": read"));
  bytes.resize(static_cast<size_t>(got));
  const size_t end = bytes.rfind('\n');
  bytes.resize(end == std::string::npos ? 0 : end + 1);
  return bytes;
}

}  // namespace lathe
