// lathe-prepare: parses the files of strangers (data sets, models), in a process of its own.
// Started by an agent with a channel on descriptor 3, or by hand.
#include <sys/stat.h>

#include <cstdio>

#include "CLI/CLI.hpp"
#include "common/base/mapped_file.h"
#include "common/wire/child_channel.h"
#include "worker/prepare/commands.h"
#include "worker/prepare/tasks.h"

namespace {

constexpr int kExitUsage = 2;

int RunWorker() {
  struct stat info {};
  if (fstat(lathe::kChildChannelFd, &info) != 0 || !S_ISSOCK(info.st_mode)) {
    std::fputs("lathe-prepare: descriptor 3 is no socket; worker is for the agent to start\n",
               stderr);
    return kExitUsage;
  }
  lathe::ChildChannel channel{lathe::UniqueFd(lathe::kChildChannelFd)};
  return lathe::RunAsChild(channel);
}

}  // namespace

int main(int argc, char** argv) {
  lathe::ExplainLostMappings();
  CLI::App app("Checks and prepares data sets, imports models.", "lathe-prepare");
  app.require_subcommand(1);
  int exit_code = 0;
  lathe::AddCommands(app, exit_code);
  app.add_subcommand("worker", "take a task from the agent on descriptor 3")
      ->callback([&exit_code] { exit_code = RunWorker(); });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  return exit_code;
}
