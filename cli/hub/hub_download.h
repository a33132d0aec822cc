#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/hub/hub_reference.h"

namespace lathe::cli {

struct HubOptions {
  std::string endpoint = "https://huggingface.co";  // Of the hub: scheme, host, port.
  std::string token;                                // Empty: none.
  std::filesystem::path cache;                      // Commits are kept below it.
  int max_tries = 5;                                // Of each request.
  absl::Duration first_pause = absl::Seconds(1);    // Doubles from try to try.
  std::function<void(const std::string& line)> progress;
  std::function<bool()> cancelled = [] { return false; };
};

// Brings the files of a model from a hub into a folder named after their commit and returns it (or
// the one GGUF file). A file counts once its size and hash are those that the hub names; until then
// it ends with ".part" and a later call goes on where it ended. What is there is not fetched again.
// InvalidArgument: a token over plain http to another machine. PermissionDenied: private or gated.
// NotFound. Unavailable: all tries failed. DataLoss: wrong bytes, twice. ResourceExhausted: disk.
absl::StatusOr<std::filesystem::path> DownloadFromHub(const HubReference& reference,
                                                      const HubOptions& options);

}  // namespace lathe::cli
