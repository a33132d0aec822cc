// lathe-worker: one agent per host. Flags and exit code only; the work is in worker/agent.
// Exit codes: 0 stopped by a signal, 2 usage, 4 refused by the coordinator, 1 everything else.

#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/machine_memory.h"
#include "common/base/status.h"
#include "common/config/duration_flag.h"
#include "common/config/environment.h"
#include "common/fault/fault.h"
#include "common/metrics/metrics.h"
#include "common/rpc/token.h"
#include "worker/agent/agent.h"
#include "worker/agent/gpus.h"
#include "worker/agent/grpc_coordinator_channel.h"
#include "worker/agent/metrics_probe.h"

namespace lathe {
namespace {

constexpr int kExitUsage = 2;
constexpr int kExitRefused = 4;

struct Flags {
  std::string root;
  std::string coordinator;
  std::string gpus;
  std::string token_file;
  std::string metrics_password_file;
  int metrics_port = 0;
  double cache_gib = 100;
  bool die_with_parent = false;
  agent::AgentOptions options;
};

void AddFlags(CLI::App& app, Flags& flags) {
  app.add_option("--root", flags.root, "The worker's own folder")->required();
  app.add_option("--coordinator", flags.coordinator, "HOST:PORT on loopback")->required();
  app.add_option("--token-file", flags.token_file, "The workers' token, mode 0600")->required();
  app.add_option("--name", flags.options.name, "For people; unique. Default: from the worker id");
  CLI::Option* const slots =
      app.add_option("--slots", flags.options.slots, "Computing child processes at a time")
          ->capture_default_str();
  app.add_option("--gpus", flags.gpus,
                 "Offers GPUs instead of cores, one per slot: all, or numbers like 0,2")
      ->excludes(slots);
  app.add_option("--threads-per-slot", flags.options.threads_per_slot, "Default: cores / slots");
  app.add_option("--metrics-port", flags.metrics_port, "Of /metrics on 127.0.0.1; 0: a free one")
      ->check(CLI::Range(0, 65535));
  app.add_option("--metrics-password-file", flags.metrics_password_file,
                 "Password of /metrics (user lathe), mode 0600; without it there is no /metrics");
  app.add_option("--program-dir", flags.options.program_folder,
                 "Holds lathe-trainer and lathe-prepare. Default: this program's folder");
  AddSeconds(app, "--cancel-grace-seconds", flags.options.cancel_grace, 0, 3600,
             "From a cancel to SIGKILL");
  AddSeconds(app, "--exit-grace-seconds", flags.options.exit_grace, 0, 3600,
             "From a child's result to SIGKILL if it does not exit");
  AddSeconds(app, "--reconnect-seconds", flags.options.max_backoff, 0.01, 3600,
             "Longest pause between two attempts to reach the coordinator");
  AddSeconds(app, "--drain-seconds", flags.options.drain_timeout, 0, 86400,
             "From SIGTERM until trainings that have not ended with a checkpoint are ended");
  app.add_option("--cache-gib", flags.cache_gib, "Size of the blob cache")
      ->check(CLI::Range(0.0, 1e6));
  app.add_flag("--die-with-parent", flags.die_with_parent, "Stop when the parent process ends");
}

// What a child sees of our environment: nothing that could hold a secret.
std::vector<std::string> BaseEnvironment() {
  std::vector<std::string> environment = {"PATH=/usr/local/bin:/usr/bin:/bin"};
  // LD_LIBRARY_PATH: where an operator keeps libtorch in another place than it was built with.
  for (const char* name : {"HOME", "LANG", "LD_LIBRARY_PATH"}) {
    if (const auto value = GetEnvironment(name)) {
      environment.push_back(absl::StrCat(name, "=", *value));
    }
  }
  for (std::string& entry : fault::Environment()) environment.push_back(std::move(entry));
  return environment;
}

absl::Status TakeGpus(Flags& flags) {
  if (flags.gpus.empty()) return absl::OkStatus();
  LATHE_ASSIGN_OR_RETURN(flags.options.gpus, agent::ParseGpus(flags.gpus, agent::PresentGpus()));
  flags.options.slots = static_cast<int>(flags.options.gpus.size());
  return absl::OkStatus();
}

void FillDefaults(Flags& flags, const agent::WorkerRoot& root) {
  agent::AgentOptions& options = flags.options;
  options.build = "0.1.0";
  options.max_cache_bytes = static_cast<int64_t>(flags.cache_gib * (1 << 30));
  options.memory_bytes = MachineMemoryBytes();
  options.base_environment = BaseEnvironment();
  if (options.name.empty()) options.name = absl::StrCat("w-", root.worker_id());
  if (options.program_folder.empty()) options.program_folder = ProgramFolder();
  if (options.threads_per_slot == 0) {
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    options.threads_per_slot = std::max(1, cores / std::max(1, options.slots));
  }
}

absl::StatusOr<std::unique_ptr<Exposer>> StartExposer(const Flags& flags,
                                                      const MetricRegistry& registry) {
  if (flags.metrics_password_file.empty()) return std::unique_ptr<Exposer>();
  LATHE_ASSIGN_OR_RETURN(const Token password, ReadTokenFile(flags.metrics_password_file));
  return Exposer::Start(registry, absl::StrCat("127.0.0.1:", flags.metrics_port),
                        password.RevealSecret());
}

// Waits for signals on its own thread; SIGUSR2, sent by main, ends it.
class SignalThread {
 public:
  explicit SignalThread(agent::Agent& agent)
      : thread_([&agent] {
          sigset_t set = Signals();
          int signal = 0;
          while (sigwait(&set, &signal) == 0 && signal != SIGUSR2) {
            LogInfo(absl::StrCat("stops: signal ", signal));
            agent.Stop();
          }
        }) {}
  ~SignalThread() { kill(getpid(), SIGUSR2); }

  // Before the first thread: all inherit the mask, so that only sigwait sees these signals.
  static void Block() {
    const sigset_t set = Signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    signal(SIGPIPE, SIG_IGN);
  }

 private:
  static sigset_t Signals() {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR2}) sigaddset(&set, signal);
    return set;
  }
  std::jthread thread_;
};

absl::Status RunWorker(Flags& flags) {
  fault::Pass("agent.start");
  LATHE_ASSIGN_OR_RETURN(Token token, ReadTokenFile(flags.token_file));
  LATHE_ASSIGN_OR_RETURN(const auto channel,
                         agent::GrpcCoordinatorChannel::Make(flags.coordinator, std::move(token),
                                                             flags.options.max_backoff));
  LATHE_ASSIGN_OR_RETURN(const agent::WorkerRoot root, agent::WorkerRoot::Open(flags.root));
  LATHE_ASSIGN_OR_RETURN(std::unique_ptr<BlobStore> cache, BlobStore::Open(root.cache()));
  LATHE_RETURN_IF_ERROR(TakeGpus(flags));
  FillDefaults(flags, root);
  LATHE_RETURN_IF_ERROR(flags.options.Validate());
  MetricRegistry registry;
  agent::MetricsProbe probe(registry, flags.options.build);
  LATHE_ASSIGN_OR_RETURN(const std::unique_ptr<Exposer> exposer, StartExposer(flags, registry));
  if (exposer != nullptr) {
    flags.options.metrics_address = absl::StrCat("127.0.0.1:", exposer->port());
  }
  agent::Agent agent(flags.options, root, std::move(cache), *channel, probe);
  const SignalThread signals(agent);
  return Annotate(agent.Run(), absl::StrCat("coordinator ", flags.coordinator));
}

int ExitCode(const absl::Status& status) {
  if (status.ok()) return 0;
  LogError(status.message());
  const bool refused = absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status);
  if (refused) return kExitRefused;
  return absl::IsInvalidArgument(status) ? kExitUsage : 1;
}

int Main(int argc, char** argv) {
  Flags flags;
  flags.options.threads_per_slot = 0;
  CLI::App app("Lathe's worker: offers slots to a coordinator and runs its assignments");
  AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error, std::cout, std::cerr);
    return code == 0 ? 0 : kExitUsage;
  }
  if (flags.die_with_parent) prctl(PR_SET_PDEATHSIG, SIGTERM);
  SignalThread::Block();
  return ExitCode(RunWorker(flags));
}

}  // namespace
}  // namespace lathe

int main(int argc, char** argv) {
  try {
    return lathe::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "lathe-worker: " << error.what() << '\n';
    return 1;
  }
}
