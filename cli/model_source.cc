#include "cli/model_source.h"

#include "cli/hub/hub_download.h"
#include "cli/hub/hub_reference.h"
#include "cli/terminal.h"
#include "common/base/status.h"

namespace lathe::cli {

absl::StatusOr<std::filesystem::path> LocalModel(
    const HubSettings& hub, const std::string& source,
    const std::function<void(const std::string& line)>& progress) {
  if (!IsHubReference(source)) return source;
  LATHE_ASSIGN_OR_RETURN(const HubReference reference, ParseHubReference(source));
  const InterruptScope interrupt;
  HubOptions options;
  options.endpoint = hub.endpoint;
  options.token = hub.token;
  options.cache = hub.cache;
  options.progress = progress;
  options.cancelled = [] { return InterruptScope::Interrupted(); };
  return DownloadFromHub(reference, options);
}

}  // namespace lathe::cli
