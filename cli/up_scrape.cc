#include "cli/up_scrape.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cli/connection.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace lathe::cli {
namespace {

std::string ScrapeJob(absl::string_view name, const std::vector<std::string>& targets,
                      const std::filesystem::path& password_file) {
  std::string list;
  for (const std::string& target : targets) {
    absl::StrAppend(&list, list.empty() ? "" : ", ", "'", target, "'");
  }
  return absl::StrCat("  - job_name: ", name, "\n    basic_auth:\n      username: lathe\n",
                      "      password_file: '", password_file.string(), "'\n",
                      "    static_configs:\n      - targets: [", list, "]\n");
}

}  // namespace

absl::Status WriteScrapeConfig(const std::filesystem::path& data_dir,
                               const v1::ListWorkersResponse& workers) {
  const std::filesystem::path coordinator = CoordinatorDir(data_dir);
  LATHE_ASSIGN_OR_RETURN(const std::string endpoint,
                         ReadFile(coordinator / "metrics_endpoint", 4096));
  std::vector<std::string> worker_targets;
  for (const v1::Worker& worker : workers.workers()) {
    if (!worker.metrics_address().empty()) worker_targets.push_back(worker.metrics_address());
  }
  const std::filesystem::path password = coordinator / "metrics.token";
  const std::string config = absl::StrCat(
      "# Written by `lathe up`. Use it: prometheus --config.file=THIS "
      "--web.listen-address=127.0.0.1:9090\n",
      "global:\n  scrape_interval: 5s\nscrape_configs:\n",
      ScrapeJob("lathe-coordinator", {std::string(absl::StripAsciiWhitespace(endpoint))}, password),
      ScrapeJob("lathe-worker", worker_targets, password));
  return WriteFileAtomically(data_dir / "prometheus.yml", config, 0600);
}

}  // namespace lathe::cli
