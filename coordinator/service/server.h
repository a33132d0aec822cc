#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "coordinator/service/coordinator.h"

namespace lathe {

struct ServerOptions {
  std::filesystem::path data_dir;
  std::string address = "127.0.0.1";  // Only loopback.
  int port = 0;                       // 0: a free one.
  int metrics_port = 0;               // Of /metrics, on 127.0.0.1; -1: none.
  int max_threads = 256;              // Of all calls that run at once.
  // Backups that clients ask for are written below it. Empty: `backups` in the data folder.
  std::filesystem::path backup_dir;
  CoordinatorOptions coordinator;

  absl::Status Validate() const;
};

// The whole coordinator in one process: data folder, store, services, /metrics. Thread-compatible.
//
// Data folder (mode 0700): client.token, worker.token, metrics.token; db/, blobs/, logs/, backups/;
// while it serves, `endpoint` and `metrics_endpoint` with HOST:PORT.
class Server {
 public:
  // InvalidArgument: not a loopback address. FailedPrecondition: another coordinator has the
  // folder. Unavailable: the port is in use. `on_fatal`: see Coordinator.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      ServerOptions options, const Clock& clock, std::function<void(const absl::Status&)> on_fatal);

  // Ends all calls and removes `endpoint`.
  ~Server();

  const std::string& endpoint() const;
  const std::string& metrics_endpoint() const;
  Store& store();
  Coordinator& coordinator();
  std::string Scrape() const;  // What /metrics would answer.

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace lathe
