#pragma once

#include <filesystem>

#include "absl/status/status.h"
#include "lathe/v1/fleet.pb.h"

namespace lathe::cli {

// Writes prometheus.yml into the data folder: a complete configuration that scrapes the coordinator
// and these workers, with the metrics password by file. Start Prometheus with it by hand; nothing
// is installed or started.
absl::Status WriteScrapeConfig(const std::filesystem::path& data_dir,
                               const v1::ListWorkersResponse& workers);

}  // namespace lathe::cli
