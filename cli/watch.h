#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "cli/connection.h"

namespace lathe::cli {

// Follows a job to its end: a bar (or a line every 10 s) on standard error, events as lines; with
// json one document per line on standard output. A broken connection is taken up again where it
// was, for up to a minute. Returns kDone, kFailed when the job failed or was cancelled; on Ctrl-C
// it detaches, says how to come back and returns kDone with `detached` set.
struct WatchResult {
  int exit_code = 0;
  bool detached = false;
  v1::Job job;
};
absl::StatusOr<WatchResult> WatchJob(const GlobalOptions& global, Connection& connection,
                                     const std::string& id);

// What a finished job ended with, in a few lines.
std::string Summary(const v1::Job& job);

}  // namespace lathe::cli
