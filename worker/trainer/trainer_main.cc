// lathe-trainer: the engine as a program. docs/architecture.md, "Programs".

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#include "CLI/CLI.hpp"
#include "common/base/exit_codes.h"
#include "common/base/mapped_file.h"
#include "worker/trainer/answer_command.h"
#include "worker/trainer/devices_command.h"
#include "worker/trainer/probe_command.h"
#include "worker/trainer/rank_command.h"
#include "worker/trainer/run_command.h"
#include "worker/trainer/stack_dump.h"
#include "worker/trainer/worker_command.h"

namespace lathe {
namespace {

constexpr int kExitUsage = 2;
constexpr int kExitInterrupted = 130;  // As a shell says it of SIGINT.

// What a subcommand does; empty until one is chosen.
using Action = std::function<absl::Status()>;

void AddRun(CLI::App& app, RunCommand& options, int& ranks, Action& action) {
  CLI::App* run = app.add_subcommand("run", "a whole job from a file, without the service");
  run->add_option("job", options.job_file, "job file; model and dataset are paths in it")
      ->required();
  CLI::Option* ranks_option = run->add_option("--ranks", ranks, "instead of the file's ranks");
  run->add_option("--out", options.output_dir, "folder of the result; default: ./NAME");
  run->add_option("--threads", options.threads, "per rank; default: the cores, shared out");
  run->callback([&options, &ranks, &action, ranks_option] {
    if (ranks_option->count() > 0) options.ranks = ranks;
    action = [&options] { return RunRunCommand(options); };
  });
}

void AddProbe(CLI::App& app, ProbeCommand& options, Action& action) {
  CLI::App* probe = app.add_subcommand("probe", "logits and greedy text, to compare with PEFT");
  probe->add_option("--model", options.model_dir, "canonical model folder")->required();
  probe->add_option("--adapter", options.adapter_dir, "PEFT folder; default: the model alone");
  probe
      ->add_option("--prompts", options.prompts_file,
                   R"({"prompts": [[ids]], "max_new_tokens": N})")
      ->required();
  probe->add_option("--out", options.output_dir, "folder for the results")->required();
  probe->add_option("--base-storage", options.base_storage,
                    "f32, bf16, nf4 or nf4+bf16, as the adapter was trained over it; default: f32");
  probe->add_option("--device", options.device, "cpu or cuda; default: cpu")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  probe->add_option("--threads", options.threads, "default: 1");
  probe->callback(
      [&options, &action] { action = [&options] { return RunProbeCommand(options); }; });
}

// Started by `run`; hidden from the help.
void AddRank(CLI::App& app, RankCommand& options, Action& action) {
  CLI::App* rank = app.add_subcommand("rank", "")->group("");
  rank->add_option("--job", options.job_file)->required();
  rank->add_option("--base-model", options.base_model)->required();
  rank->add_option("--model", options.model_dir)->required();
  rank->add_option("--shards", options.shard_dir)->required();
  rank->add_option("--out", options.output_dir)->required();
  rank->add_option("--parent", options.parent_dir);
  rank->add_option("--rank", options.rank)->required();
  rank->add_option("--world-size", options.world_size)->required();
  rank->add_option("--host", options.host);
  rank->add_option("--own-host", options.own_host);
  rank->add_option("--port", options.port)->required();
  rank->add_option("--listen-fd", options.listen_fd)->required();
  rank->add_option("--attempt", options.attempt)->required();
  rank->add_option("--threads", options.threads)->required();
  rank->callback([&options, &action] { action = [&options] { return RunRankCommand(options); }; });
}

void AddDevices(CLI::App& app, Action& action) {
  CLI::App* devices = app.add_subcommand("devices", "the GPUs that liblathe_nccl.so finds");
  devices->callback([&action] { action = [] { return RunDevicesCommand(); }; });
}

// Started by rank 0; hidden from the help.
void AddAnswer(CLI::App& app, AnswerCommand& options, Action& action) {
  CLI::App* answer = app.add_subcommand("answer", "")->group("");
  answer->add_option("--model", options.request.model_dir)->required();
  answer->add_option("--shards", options.request.shard_dir)->required();
  answer->add_option("--adapter", options.request.adapter_dir);
  answer->add_option("--base-storage", options.request.base_storage)->required();
  answer->add_option("--cuda-device", options.request.cuda_device)->required();
  answer->add_option("--threads", options.request.threads)->required();
  answer->add_option("--out", options.output)->required();
  answer->callback(
      [&options, &action] { action = [&options] { return RunAnswerCommand(options); }; });
}

void AddWorker(CLI::App& app, Action& action) {
  CLI::App* worker = app.add_subcommand("worker", "started by lathe-worker, on descriptor 3");
  worker->callback([&action] { action = [] { return RunWorkerCommand(); }; });
}

// MKL reads it at its first product: the same instruction path and summation order from run to run
// on one type of processor. What the user has set stays.
void FixMatrixKernels() { setenv("MKL_CBWR", "AUTO", /*overwrite=*/0); }

int Main(int argc, char** argv) {
  PrintStackOnSignal(argv[0]);
  FixMatrixKernels();
  ExplainLostMappings();
  CLI::App app("Lathe's engine: trains and serves models.", "lathe-trainer");
  app.require_subcommand(1);
  Action action;
  RunCommand run;
  ProbeCommand probe;
  RankCommand rank;
  AnswerCommand answer;
  int ranks = 1;
  AddRun(app, run, ranks, action);
  AddProbe(app, probe, action);
  AddRank(app, rank, action);
  AddDevices(app, action);
  AddAnswer(app, answer, action);
  AddWorker(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  const absl::Status status = action();
  if (status.ok()) return kExitOk;
  std::fprintf(stderr, "lathe-trainer: %s\n", std::string(status.message()).c_str());
  return absl::IsCancelled(status) ? kExitInterrupted : ExitCodeFor(status);
}

}  // namespace
}  // namespace lathe

int main(int argc, char** argv) { return lathe::Main(argc, argv); }
