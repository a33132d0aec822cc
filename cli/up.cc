#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <ctime>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/commands.h"
#include "cli/connection.h"
#include "cli/output.h"
#include "cli/up_processes.h"
#include "cli/up_scrape.h"
#include "common/base/exit_codes.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/config/environment.h"

namespace lathe::cli {
namespace {

constexpr int kReadySeconds = 30;
constexpr int kWorkersSeconds = 30;
constexpr int kStopSeconds = 30;  // Workers take 20 to end trainings with a checkpoint.
constexpr int kMaxRestarts = 10;  // Of one process.

// Runs the coordinator and its workers as children until a signal comes. Single-threaded: signals
// are blocked and taken by sigtimedwait, so nothing here needs a handler.
class Supervisor {
 public:
  Supervisor(const GlobalOptions& global, const UpOptions& options)
      : global_(global),
        options_(options),
        programs_(ProgramFolder()),
        port_(absl::StrCat(options.port)) {
    sigemptyset(&signals_);
    for (const int signal : {SIGINT, SIGTERM, SIGCHLD, SIGHUP}) sigaddset(&signals_, signal);
    sigprocmask(SIG_BLOCK, &signals_, nullptr);
  }
  ~Supervisor() { Stop(); }
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  absl::StatusOr<int> Run() {
    LATHE_RETURN_IF_ERROR(MakeFolder(global_.data_dir, 0700));
    LATHE_RETURN_IF_ERROR(MakeFolder(LogDir(), 0700));
    LATHE_RETURN_IF_ERROR(StartCoordinator());
    workers_.resize(static_cast<size_t>(options_.workers));
    for (size_t i = 0; i < workers_.size(); ++i) LATHE_RETURN_IF_ERROR(StartWorker(i));
    if (!WaitForWorkers()) return kDone;
    absl::PrintF("ready %s\n", address_);
    std::fflush(stdout);
    Announce();
    return Supervise();
  }

 private:
  struct Worker {
    ChildProcess process;
    int restarts = 0;
  };

  std::filesystem::path LogDir() const { return global_.data_dir / "logs"; }

  absl::Status StartCoordinator() {
    const std::filesystem::path log = LogDir() / "coordinator.log";
    ProcessSpec spec{
        "coordinator",
        {(programs_ / "lathe-coordinator").string(), "--data-dir",
         CoordinatorDir(global_.data_dir).string(), "--port", port_, "--die-with-parent"},
        log};
    if (!options_.backup_dir.empty()) {
      spec.argv.insert(spec.argv.end(), {"--backup-dir", options_.backup_dir.string()});
    }
    LATHE_ASSIGN_OR_RETURN(coordinator_, StartProcess(spec));
    const absl::StatusOr<std::string> line = ReadFirstLine(coordinator_.output, kReadySeconds);
    if (!line.ok() || !absl::StartsWith(*line, "ready ")) {
      const std::string reason = LastLine(log);
      return absl::FailedPreconditionError(
          absl::StrCat("the coordinator did not start: ",
                       reason.empty() ? std::string(line.status().message()) : reason));
    }
    address_ = line->substr(6);
    // Started again it must be where the workers look for it.
    port_ = address_.substr(address_.rfind(':') + 1);
    return absl::OkStatus();
  }

  std::vector<std::string> SlotFlags() const {
    int threads = options_.threads_per_slot;
    std::vector<std::string> flags = {"--gpus", options_.gpus};
    if (options_.gpus.empty()) {
      const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
      const int slots = options_.workers * options_.slots;
      if (threads == 0) threads = std::max(1, static_cast<int>(cores) / slots);
      flags = {"--slots", absl::StrCat(options_.slots)};
    }
    // A worker with GPUs knows best how many cores are there for each.
    if (threads > 0) {
      flags.insert(flags.end(), {"--threads-per-slot", absl::StrCat(threads)});
    }
    return flags;
  }

  absl::Status StartWorker(size_t index) {
    const std::string name = absl::StrCat("worker-", index + 1);
    const std::filesystem::path secrets = CoordinatorDir(global_.data_dir);
    ProcessSpec spec{
        name,
        {(programs_ / "lathe-worker").string(), "--root",
         (global_.data_dir / "workers" / name).string(), "--coordinator", address_, "--token-file",
         (secrets / "worker.token").string(), "--metrics-password-file",
         (secrets / "metrics.token").string(), "--name", name, "--die-with-parent"},
        LogDir() / (name + ".log")};
    for (std::string& argument : SlotFlags()) spec.argv.push_back(std::move(argument));
    LATHE_RETURN_IF_ERROR(MakeFolder(global_.data_dir / "workers", 0700));
    LATHE_ASSIGN_OR_RETURN(workers_[index].process, StartProcess(spec));
    return absl::OkStatus();
  }

  // The signal that came, 0 after `seconds`.
  int WaitSignal(int seconds, int millis = 0) const {
    const timespec timeout{seconds, millis * 1000000L};
    const int signal = sigtimedwait(&signals_, nullptr, &timeout);
    return signal > 0 ? signal : 0;
  }

  absl::StatusOr<v1::ListWorkersResponse> ListWorkers() {
    if (connection_ == nullptr) {
      GlobalOptions own = global_;
      own.coordinator = address_;
      own.token_file = CoordinatorDir(global_.data_dir) / "client.token";
      LATHE_ASSIGN_OR_RETURN(connection_, Connection::Open(own));
    }
    grpc::ClientContext context;
    connection_->Prepare(context);
    v1::ListWorkersResponse response;
    LATHE_RETURN_IF_ERROR(FromService(connection_->fleet().ListWorkers(&context, {}, &response)));
    return response;
  }

  // Until all workers have joined, for half a minute at most; false if a signal asked for the end.
  bool WaitForWorkers() {
    for (int tenth = 0; tenth < kWorkersSeconds * 10; ++tenth) {
      const auto response = ListWorkers();
      int alive = 0;
      if (response.ok()) {
        for (const v1::Worker& worker : response->workers()) alive += worker.state() == "alive";
      }
      if (alive >= options_.workers) {
        const absl::Status written = WriteScrapeConfig(global_.data_dir, *response);
        if (!written.ok()) LogWarning(written.ToString());
        return true;
      }
      const int signal = WaitSignal(0, 100);
      if (signal == SIGINT || signal == SIGTERM || signal == SIGHUP) return false;
    }
    LogWarning(
        absl::StrCat("not all of ", options_.workers, " workers joined; see ", LogDir().string()));
    return true;
  }

  void Announce() const {
    absl::FPrintF(
        stderr,
        "coordinator %s, %s, data in %s\n"
        "another terminal: lathe tune FILE --model NAME|PATH   (Ctrl-C here ends it all)\n",
        address_,
        options_.gpus.empty()
            ? absl::StrCat(options_.workers, " workers with ", options_.slots, " slots each")
            : absl::StrCat("1 worker with GPUs ", options_.gpus),
        global_.data_dir.string());
  }

  absl::StatusOr<int> Supervise() {
    for (;;) {
      int wait_status = 0;
      for (pid_t pid = 0; (pid = waitpid(-1, &wait_status, WNOHANG)) > 0;) {
        LATHE_RETURN_IF_ERROR(OnExit(pid, wait_status));
      }
      const int signal = WaitSignal(3600);
      if (signal == SIGINT || signal == SIGTERM || signal == SIGHUP) return kDone;
    }
  }

  absl::Status OnExit(pid_t pid, int wait_status) {
    if (pid == coordinator_.pid) return OnCoordinatorExit(wait_status);
    for (size_t i = 0; i < workers_.size(); ++i) {
      if (workers_[i].process.pid != pid) continue;
      workers_[i].process.pid = -1;
      LogWarning(
          absl::StrCat("worker-", i + 1, " ", DescribeExit(wait_status), "; starts it again"));
      if (++workers_[i].restarts > kMaxRestarts) {
        return absl::InternalError(absl::StrCat("worker-", i + 1, " ended ", kMaxRestarts + 1,
                                                " times; see ", LogDir().string()));
      }
      LATHE_RETURN_IF_ERROR(StartWorker(i));
    }
    return absl::OkStatus();
  }

  // What runs goes on meanwhile: the next one finds it in its rows.
  absl::Status OnCoordinatorExit(int wait_status) {
    coordinator_.pid = -1;
    const std::string what = absl::StrCat("the coordinator ", DescribeExit(wait_status), ": ",
                                          LastLine(LogDir() / "coordinator.log"));
    if (++coordinator_restarts_ > kMaxRestarts) return absl::InternalError(what);
    LogWarning(absl::StrCat(what, "; starts it again"));
    connection_.reset();
    return StartCoordinator();
  }

  // Workers first, so that they can hand back what they hold.
  void Stop() {
    connection_.reset();
    std::vector<pid_t> pids;
    pids.reserve(workers_.size());
    for (const Worker& worker : workers_) pids.push_back(worker.process.pid);
    StopAll(pids);
    StopAll({coordinator_.pid});
  }

  void StopAll(const std::vector<pid_t>& pids) const {
    for (const pid_t pid : pids) {
      if (pid > 0) kill(pid, SIGTERM);
    }
    for (const pid_t pid : pids) {
      if (pid > 0) Reap(pid);
    }
  }

  void Reap(pid_t pid) const {
    for (int tenth = 0; tenth < kStopSeconds * 10; ++tenth) {
      if (waitpid(pid, nullptr, WNOHANG) != 0) return;
      WaitSignal(0, 100);
    }
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }

  const GlobalOptions& global_;
  const UpOptions& options_;
  const std::filesystem::path programs_;
  sigset_t signals_{};
  std::string port_;
  std::string address_;
  std::unique_ptr<Connection> connection_;
  ChildProcess coordinator_;
  int coordinator_restarts_ = 0;
  std::vector<Worker> workers_;
};

}  // namespace

absl::StatusOr<int> Up(const GlobalOptions& global, const UpOptions& options) {
  Supervisor supervisor(global, options);
  return supervisor.Run();
}

}  // namespace lathe::cli
