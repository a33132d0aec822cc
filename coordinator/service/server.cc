#include "coordinator/service/server.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/loopback.h"
#include "common/rpc/server.h"
#include "coordinator/service/admin_service.h"
#include "coordinator/service/agent_service.h"
#include "coordinator/service/auth.h"
#include "coordinator/service/call_metrics.h"
#include "coordinator/service/dataset_service.h"
#include "coordinator/service/fleet_service.h"
#include "coordinator/service/hang_report.h"
#include "coordinator/service/inference_service.h"
#include "coordinator/service/job_service.h"
#include "coordinator/service/model_service.h"
#include "coordinator/store/sqlite_store.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<UniqueFd> LockFolder(const fs::path& folder) {
  return LockFile(folder / "lock", absl::StrCat("data folder ", folder.string(),
                                                " is in use by another coordinator; stop it, or "
                                                "pass another --data-dir"));
}

absl::Status PrepareFolder(const fs::path& folder) {
  LATHE_RETURN_IF_ERROR(MakeFolder(folder, 0700));
  if (chmod(folder.c_str(), 0700) != 0) {
    return ErrnoToStatus(errno, absl::StrCat(folder.string(), ": chmod"));
  }
  return MakeFolder(folder / "logs", 0700);
}

std::string HostPortText(const std::string& host, int port) {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port)
                                             : absl::StrCat("[", host, "]:", port);
}

}  // namespace

absl::Status ServerOptions::Validate() const {
  if (!IsLoopbackHost(address)) {
    return absl::InvalidArgumentError(
        absl::StrCat("address is '", address,
                     "'; only loopback is allowed until there is TLS: 127.0.0.1 or ::1"));
  }
  for (const auto& [name, value] :
       {std::pair("port", port), std::pair("metrics-port", metrics_port)}) {
    const int low = name == absl::string_view("metrics-port") ? -1 : 0;
    if (value < low || value > 65535) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is ", value, "; must be in [", low, ", 65535], 0 takes a free one"));
    }
  }
  if (data_dir.empty()) return absl::InvalidArgumentError("data-dir is empty; pass --data-dir DIR");
  return absl::OkStatus();
}

// In the order of construction; destroyed the other way round.
struct Server::State {
  ServerOptions options;
  UniqueFd lock;
  Tokens tokens;
  std::unique_ptr<SqliteStore> store;
  std::unique_ptr<BlobStore> blobs;
  MetricRegistry registry;
  Probe probe{registry};
  Hub hub;
  Chats chats;
  std::unique_ptr<JobLogs> logs;
  std::unique_ptr<Coordinator> coordinator;
  std::unique_ptr<AgentServiceImpl> agents;
  std::unique_ptr<JobServiceImpl> jobs;
  std::unique_ptr<DatasetServiceImpl> datasets;
  std::unique_ptr<ModelServiceImpl> models;
  std::unique_ptr<InferenceServiceImpl> inference;
  std::unique_ptr<FleetServiceImpl> fleet;
  std::unique_ptr<AdminServiceImpl> admin;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<Exposer> exposer;
  std::string endpoint;
  std::string metrics_endpoint;

  absl::Status Open();
  void KeepHang(const HangReport& report) const;
  void MakeServices(const Clock& clock);
  absl::Status Serve(const Clock& clock);
  absl::Status ServeMetrics();
  absl::Status Announce() const;
};

absl::Status Server::State::Open() {
  const fs::path& folder = options.data_dir;
  LATHE_RETURN_IF_ERROR(PrepareFolder(folder));
  LATHE_ASSIGN_OR_RETURN(lock, LockFolder(folder));
  LATHE_ASSIGN_OR_RETURN(tokens, LoadOrCreateTokens(folder));
  LATHE_ASSIGN_OR_RETURN(store, SqliteStore::Open(folder / "db"));
  LATHE_ASSIGN_OR_RETURN(
      blobs,
      BlobStore::Open(folder / "blobs", {.max_blob_bytes = options.coordinator.max_model_bytes}));
  logs = std::make_unique<JobLogs>(folder / "logs", options.coordinator.max_log_bytes_per_job);
  return absl::OkStatus();
}

// In a file of its own, and in the job's log, where the stacks of its processes follow.
void Server::State::KeepHang(const HangReport& report) const {
  const absl::Status kept = KeepHangReport(options.data_dir / "hangs", report);
  if (!kept.ok()) LogWarning(kept.ToString());
  const absl::Status logged = logs->Append(report.job.id, "coordinator", HangReportText(report));
  if (!logged.ok()) LogWarning(logged.ToString());
}

void Server::State::MakeServices(const Clock& clock) {
  agents = std::make_unique<AgentServiceImpl>(*coordinator, *blobs, *logs, chats, hub);
  jobs = std::make_unique<JobServiceImpl>(*coordinator, *store, *logs, hub);
  datasets = std::make_unique<DatasetServiceImpl>(*coordinator, *store, *blobs);
  models = std::make_unique<ModelServiceImpl>(*coordinator, *store, *blobs);
  inference = std::make_unique<InferenceServiceImpl>(*coordinator, hub);
  fleet = std::make_unique<FleetServiceImpl>(*coordinator);
  const fs::path backups =
      options.backup_dir.empty() ? options.data_dir / "backups" : options.backup_dir;
  admin = std::make_unique<AdminServiceImpl>(
      *coordinator, BackupSource{*store, *blobs, options.data_dir / "logs"}, backups, clock);
}

absl::Status Server::State::Serve(const Clock& clock) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  ApplyServerLimits(builder);
  grpc::ResourceQuota quota("lathe-coordinator");
  quota.SetMaxThreads(options.max_threads);
  builder.SetResourceQuota(quota);
  int port = 0;
  const std::string address = HostPortText(options.address, options.port);
  builder.AddListeningPort(address,
                           MakeServerCredentials(tokens, options.data_dir, probe.refused()), &port);
  for (grpc::Service* service :
       std::initializer_list<grpc::Service*>{agents.get(), jobs.get(), datasets.get(), models.get(),
                                             inference.get(), fleet.get(), admin.get()}) {
    builder.RegisterService(service);
  }
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> creators;
  creators.push_back(MakeCallMetrics(probe, clock));
  builder.experimental().SetInterceptorCreators(std::move(creators));
  server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": port ",
                                               options.port,
                                               " is in use; --port 0 takes a free one"));
  }
  server->GetHealthCheckService()->SetServingStatus(true);
  endpoint = HostPortText(options.address, port);
  return absl::OkStatus();
}

absl::Status Server::State::ServeMetrics() {
  if (options.metrics_port < 0) return absl::OkStatus();
  LATHE_ASSIGN_OR_RETURN(exposer,
                         Exposer::Start(registry, absl::StrCat("127.0.0.1:", options.metrics_port),
                                        tokens.metrics.RevealSecret()));
  metrics_endpoint = absl::StrCat("127.0.0.1:", exposer->port());
  return WriteFileAtomically(options.data_dir / "metrics_endpoint", metrics_endpoint + "\n", 0600);
}

absl::Status Server::State::Announce() const {
  return WriteFileAtomically(options.data_dir / "endpoint", endpoint + "\n", 0600);
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    ServerOptions options, const Clock& clock, std::function<void(const absl::Status&)> on_fatal) {
  LATHE_RETURN_IF_ERROR(options.Validate());
  auto state = std::make_unique<State>();
  state->options = std::move(options);
  LATHE_RETURN_IF_ERROR(state->Open());
  state->options.coordinator.keep_hang = [kept_by = state.get()](const HangReport& report) {
    kept_by->KeepHang(report);
  };
  state->coordinator = std::make_unique<Coordinator>(state->options.coordinator, *state->store,
                                                     *state->blobs, state->hub, state->chats,
                                                     state->probe, clock, std::move(on_fatal));
  LATHE_RETURN_IF_ERROR(state->coordinator->Start());
  state->MakeServices(clock);
  LATHE_RETURN_IF_ERROR(state->ServeMetrics());
  LATHE_RETURN_IF_ERROR(state->Serve(clock));
  LATHE_RETURN_IF_ERROR(state->Announce());
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() {
  for (const char* name : {"endpoint", "metrics_endpoint"}) {
    unlink((state_->options.data_dir / name).c_str());
  }
  // Whoever waits is sent away at once: agents and watchers come back to the next process.
  state_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  state_->server->Wait();
  state_->server.reset();
  state_->coordinator->Stop();
}

const std::string& Server::endpoint() const { return state_->endpoint; }
const std::string& Server::metrics_endpoint() const { return state_->metrics_endpoint; }
Store& Server::store() { return *state_->store; }
Coordinator& Server::coordinator() { return *state_->coordinator; }
std::string Server::Scrape() const { return state_->registry.Scrape(); }

}  // namespace lathe
