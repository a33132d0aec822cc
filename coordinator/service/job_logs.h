#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/id.h"
#include "common/base/mutex.h"

namespace lathe {

// The captured output of the processes of each job: FOLDER/<job>.log, whole lines, each with its
// source. Thread-safe.
class JobLogs {
 public:
  static constexpr size_t kMaxLineBytes = 16 << 10;  // A longer line is cut.

  JobLogs(std::filesystem::path folder, int64_t max_bytes_per_job)
      : folder_(std::move(folder)), max_bytes_(max_bytes_per_job) {}

  // What goes beyond the limit of the job is dropped, with one line that says so. REQUIRES: the job
  // is known, so that its id is a file name.
  absl::Status Append(const JobId& job, absl::string_view source, absl::string_view text);

  // Whole lines from `offset`, about max_bytes of them; empty: there are no more so far.
  absl::StatusOr<std::string> Read(const JobId& job, int64_t offset, size_t max_bytes) const;

 private:
  std::filesystem::path PathOf(const JobId& job) const;

  const std::filesystem::path folder_;
  const int64_t max_bytes_;
  Mutex mutex_;  // Held across the write: lines must not mix.
};

}  // namespace lathe
