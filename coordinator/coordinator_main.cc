#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include "common/base/human.h"
#include "common/base/id.h"
#include "common/base/log.h"
#include "common/config/duration_flag.h"
#include "common/config/environment.h"
#include "common/fault/fault.h"
#include "coordinator/backup/restore.h"
#include "coordinator/service/server.h"
#include "grpc/support/log.h"

// lathe-coordinator: flags, signals and exit code; the rest is coordinator/service/server.h.

namespace {

struct Flags {
  lathe::ServerOptions server;
  std::filesystem::path restore;  // Empty: serve.
  bool json = false;              // Of a restore.
  bool die_with_parent = false;
};

// "default=4".
void AddQuota(const std::string& text, std::map<std::string, int>& quotas) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
  int slots = 0;
  const bool valid = lathe::ValidateName("project", parts.first).ok() &&
                     absl::SimpleAtoi(parts.second, &slots) && slots >= 0;
  if (!valid) {
    throw CLI::ValidationError("--quota", absl::StrCat("is '", text.substr(0, 80),
                                                       "'; must be PROJECT=SLOTS, as default=4"));
  }
  quotas[parts.first] = slots;
}

void AddFlags(CLI::App& app, Flags& flags) {
  app.add_option("--data-dir", flags.server.data_dir,
                 "folder with all that the coordinator keeps (LATHE_DATA_DIR)");
  app.add_option(
      "--backup-dir", flags.server.backup_dir,
      "folder for the backups that clients ask for; default: backups in the data folder");
  app.add_option("--restore", flags.restore,
                 "only restore this backup into --data-dir, which must be new or empty");
  app.add_flag("--json", flags.json, "with --restore: its result as one JSON document");
  app.add_option("--address", flags.server.address, "loopback address to listen on");
  app.add_option("--port", flags.server.port, "0: a free one");
  app.add_option("--metrics-port", flags.server.metrics_port,
                 "of /metrics on 127.0.0.1; 0: a free one, -1: none");
  lathe::CoordinatorOptions& options = flags.server.coordinator;
  lathe::CoreOptions& core = options.core;
  lathe::AddSeconds(app, "--lease-seconds", core.lease, 0.1, 3600,
                    "a worker that is silent for longer is lost");
  lathe::AddSeconds(app, "--restart-grace-seconds", core.restart_grace, 0, 3600,
                    "after a restart: time for workers to come back before they count as lost");
  lathe::AddSeconds(app, "--missing-grace-seconds", core.missing_grace, 0, 3600,
                    "a worker that came back without a process: time to report how that ended");
  lathe::AddSeconds(
      app, "--hang-seconds", core.hang.step, 0.1, 86400,
      "a training without progress for so long (or ten steps) stands still; thirty times "
      "that while it loads, exports, writes");
  lathe::AddSeconds(app, "--cancel-timeout-seconds", core.cancel_timeout, 0.1, 3600,
                    "a process that was told to end no longer holds up its job after this");
  lathe::AddSeconds(app, "--orphan-seconds", options.orphan_timeout, 0.1, 86400,
                    "a worker that hears nothing for so long ends its processes");
  lathe::AddSeconds(app, "--chat-idle-seconds", options.chat_idle_timeout, 0.1, 86400,
                    "a model that nobody talks to is unloaded");
  app.add_option_function<std::vector<std::string>>(
      "--quota",
      [&core](const std::vector<std::string>& all) {
        for (const std::string& text : all) AddQuota(text, core.quotas);
      },
      "PROJECT=SLOTS, any number of times: what the jobs of a project may hold at a time");
  app.add_flag("--die-with-parent", flags.die_with_parent, "end when the parent process ends");
}

void Finish(Flags& flags) {
  if (flags.server.data_dir.empty()) {
    flags.server.data_dir = lathe::DefaultDataDir() / "coordinator";
  }
  lathe::CoordinatorOptions& options = flags.server.coordinator;
  options.core.hang.slow = 30 * options.core.hang.step;
  options.heartbeat_interval = options.core.lease / 4;
}

// False: the parent has gone already.
bool DieWithParent() {
  const pid_t parent = getppid();
  // The signal comes only for an end after the call: look whether it came before.
  return prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && parent != 1 && getppid() == parent;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "lathe-coordinator: %s\n", std::string(status.message()).c_str());
  return 1;
}

// Before any thread starts: threads inherit the mask, so that only sigwait sees these.
sigset_t BlockEndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

void OnFatal(const absl::Status& status) {
  lathe::LogError(absl::StrCat("ends: ", status.message()));
  // Not an orderly end: what was decided and not stored must reach nobody.
  _exit(1);
}

// Progress on standard error, what came of it as one line on standard output.
int Restore(const Flags& flags) {
  const auto manifest = lathe::RestoreBackup(
      flags.restore, flags.server.data_dir,
      [last = absl::Now()](const lathe::BackupProgress& progress) mutable {
        if (absl::Now() - last < absl::Seconds(10)) return true;
        last = absl::Now();
        std::fprintf(stderr, "restored %s of %s\n", lathe::HumanBytes(progress.bytes_done).c_str(),
                     lathe::HumanBytes(progress.bytes_total).c_str());
        return true;
      });
  if (!manifest.ok()) return Fail(manifest.status());
  const std::string line =
      flags.json
          ? absl::StrCat("{\"jobs\":", manifest->jobs, ",\"files\":", manifest->files.size(),
                         ",\"bytes\":", manifest->TotalBytes(), "}")
          : absl::StrCat("restored ", manifest->jobs, " jobs, ", manifest->files.size(), " files, ",
                         lathe::HumanBytes(manifest->TotalBytes()), ", verified");
  std::puts(line.c_str());
  return 0;
}

int Run(int argc, char** argv) {
  Flags flags;
  CLI::App app("The one server of Lathe: API, scheduler, store of jobs and artifacts");
  AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  Finish(flags);
  if (!flags.restore.empty()) return Restore(flags);
  const sigset_t signals = BlockEndSignals();
  signal(SIGPIPE, SIG_IGN);
  // gRPC's own log repeats in five lines what the status says in one.
  gpr_set_log_function([](gpr_log_func_args*) {});
  if (flags.die_with_parent && !DieWithParent()) {
    return Fail(absl::FailedPreconditionError("--die-with-parent: the parent has gone"));
  }

  lathe::fault::Pass("coordinator.start");
  const lathe::SystemClock clock;
  const auto server = lathe::Server::Start(flags.server, clock, OnFatal);
  if (!server.ok()) return Fail(server.status());
  std::printf("ready %s\n", (*server)->endpoint().c_str());
  std::fflush(stdout);
  int received = 0;
  sigwait(&signals, &received);
  lathe::LogInfo("ends as it was told");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  // Nothing of ours throws; what a library throws ends here, in one line.
  try {
    return Run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lathe-coordinator: %s\n", error.what());
    return lathe::kExitBug;
  }
}
