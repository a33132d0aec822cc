#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "cli/context.h"

namespace lathe::cli {

// A path as it is; hf:OWNER/NAME is fetched first (hub_download.h). Ctrl-C ends a download, which
// goes on where it ended the next time.
absl::StatusOr<std::filesystem::path> LocalModel(
    const HubSettings& hub, const std::string& source,
    const std::function<void(const std::string& line)>& progress);

}  // namespace lathe::cli
