// lathe: flags and exit codes only. docs/cli.md is the contract.

#include <CLI/CLI.hpp>
#include <functional>

#include "absl/strings/str_format.h"
#include "cli/commands.h"
#include "cli/connection.h"
#include "common/base/id.h"
#include "common/config/environment.h"

namespace lathe::cli {
namespace {

constexpr char kPublicHub[] = "https://huggingface.co";

using Command = std::function<absl::StatusOr<int>(const GlobalOptions&)>;

// Collects flags of all commands; `command` is the one that was chosen.
struct Parser {
  CLI::App app{"Lathe: instruction tuning as a service", "lathe"};
  GlobalOptions global;
  Command command;
  std::string name;
  UpOptions up;
  ImportOptions import;
  ExportOptions export_options;
  UploadOptions upload;
  CheckOptions check;
  PreviewOptions preview;
  SubmitOptions submit;
  TuneOptions tune;
  ChatOptions chat;
  RestoreOptions restore;
  bool follow = false;
  std::string project = "default";

  CLI::App* Add(CLI::App* parent, const char* verb, const char* help, Command run) {
    CLI::App* sub = parent->add_subcommand(verb, help);
    sub->fallthrough();
    sub->callback([this, run = std::move(run)] { command = run; });
    return sub;
  }
  CLI::App* AddGroup(const char* noun, const char* help) {
    CLI::App* group = app.add_subcommand(noun, help);
    group->fallthrough();
    group->require_subcommand(1);
    return group;
  }
};

void AddGlobals(Parser& p) {
  p.global.data_dir = DefaultDataDir();
  p.global.coordinator = GetEnvironment("LATHE_COORDINATOR").value_or("");
  p.global.token_file = GetEnvironment("LATHE_TOKEN_FILE").value_or("");
  p.app.require_subcommand(1);
  p.app.set_version_flag("--version", "lathe 0.1.0");
  p.app.add_option("--coordinator", p.global.coordinator,
                   "HOST:PORT of the service (LATHE_COORDINATOR); default: what lathe up wrote");
  p.app.add_option("--token-file", p.global.token_file,
                   "file with the token (LATHE_TOKEN_FILE); default: what lathe up wrote");
  p.app.add_option("--data-dir", p.global.data_dir, "folder of lathe up (LATHE_DATA_DIR)");
  p.app.add_option("--project", p.project, "project; only 'default' so far")
      ->check(CLI::IsMember({"default"}));
  p.global.hub = {.endpoint = GetEnvironment("HF_ENDPOINT").value_or(kPublicHub),
                  .token = GetEnvironment("HF_TOKEN").value_or(""),
                  .cache = DefaultCacheDir() / "hub"};
  p.app.add_option("--hub", p.global.hub.endpoint,
                   "address of the hub that hf:OWNER/NAME means; its token is $HF_TOKEN");
  p.app.add_flag("--json", p.global.json, "one JSON document, or one per line where it streams");
}

void AddUp(Parser& p) {
  CLI::App* up = p.Add(&p.app, "up", "start coordinator and local workers; ends with Ctrl-C",
                       [&p](const GlobalOptions& global) { return Up(global, p.up); });
  CLI::Option* const workers =
      up->add_option("--workers", p.up.workers, "number of workers")->check(CLI::Range(1, 64));
  CLI::Option* const slots =
      up->add_option("--slots", p.up.slots, "CPU slots of each worker")->check(CLI::Range(1, 64));
  up->add_option("--gpus", p.up.gpus,
                 "one worker that offers GPUs, one per slot: all, or numbers like 0,2")
      ->excludes(workers)
      ->excludes(slots);
  up->add_option("--threads-per-slot", p.up.threads_per_slot, "default: cores / slots")
      ->check(CLI::Range(1, 1024));
  up->add_option("--backup-dir", p.up.backup_dir,
                 "where lathe admin backup writes; default: in the data folder");
  up->add_option("--port", p.up.port, "default: any free one")->check(CLI::Range(0, 65535));
}

void AddModels(Parser& p) {
  CLI::App* models = p.AddGroup("models", "import, list, get, export");
  CLI::App* import =
      p.Add(models, "import", "bring a Hugging Face folder, a .gguf file or a hub's model",
            [&p](const GlobalOptions& g) { return ModelsImport(g, p.import); });
  import->add_option("name", p.import.name)->required();
  import
      ->add_option("--from", p.import.from,
                   "folder or file, whose bytes are sent; or hf:OWNER/NAME")
      ->required();
  p.Add(models, "list", "all models", ModelsList);
  CLI::App* get = p.Add(models, "get", "one model with its files",
                        [&p](const GlobalOptions& g) { return ModelsGet(g, p.name); });
  get->add_option("name", p.name)->required();
  CLI::App* exporting =
      p.Add(models, "export", "write a model's files to a new folder",
            [&p](const GlobalOptions& g) { return ModelsExport(g, p.export_options); });
  exporting->add_option("name", p.export_options.name)->required();
  exporting->add_option("--to", p.export_options.to, "new or empty folder, or FILE.gguf")
      ->required();
  exporting->add_flag("--base", p.export_options.base,
                      "also its base as a Hugging Face folder, in DIR/base");
  exporting->add_flag("--merged", p.export_options.merged,
                      "base and adapter in one, as a Hugging Face folder");
  CLI::Option* dtype =
      exporting->add_option("--dtype", p.export_options.dtype, "of a whole model; default: f32");
  dtype->check(CLI::IsMember({"f32", "bf16", "f16"}));
  CLI::Option* shards = exporting->add_option("--shard-size", p.export_options.shard_size,
                                              "of a whole model, such as 5GB; default: one file");
  exporting
      ->add_option("--gguf", p.export_options.gguf,
                   "as one GGUF file with weights of the type f16 or q8_0; adapters need --merged")
      ->excludes(dtype)
      ->excludes(shards)
      ->check(CLI::IsMember({"f16", "q8_0"}));
}

void AddDatasets(Parser& p) {
  CLI::App* datasets = p.AddGroup("datasets", "upload, list, get, delete, check, preview");
  CLI::App* upload = p.Add(datasets, "upload", "bring a .json or .jsonl file",
                           [&p](const GlobalOptions& g) { return DatasetsUpload(g, p.upload); });
  upload->add_option("name", p.upload.name)->required();
  upload->add_option("--from", p.upload.from, "the file")->required();
  upload->add_option("--format", p.upload.format, "json or jsonl; default: by content")
      ->check(CLI::IsMember({"json", "jsonl"}));
  p.Add(datasets, "list", "all data sets", DatasetsList);
  CLI::App* get = p.Add(datasets, "get", "one data set",
                        [&p](const GlobalOptions& g) { return DatasetsGet(g, p.name); });
  get->add_option("name", p.name)->required();
  CLI::App* remove = p.Add(datasets, "delete", "forget a data set",
                           [&p](const GlobalOptions& g) { return DatasetsDelete(g, p.name); });
  remove->add_option("name", p.name)->required();
  CLI::App* check = p.Add(datasets, "check", "a verdict for every row",
                          [&p](const GlobalOptions& g) { return DatasetsCheck(g, p.check); });
  check->add_option("name", p.check.name)->required();
  check->add_option("--model", p.check.model, "also count tokens as this model sees them");
  check->add_option("--max-length", p.check.max_length, "default 2048");
  CLI::App* preview = p.Add(datasets, "preview", "the tokens of a row, trained or not",
                            [&p](const GlobalOptions& g) { return DatasetsPreview(g, p.preview); });
  preview->add_option("name", p.preview.name)->required();
  preview->add_option("--model", p.preview.model)->required();
  preview->add_option("--row", p.preview.row, "from 0");
  preview->add_option("--max-length", p.preview.max_length, "default 2048");
  preview->add_option("--color", p.preview.color, "auto, always or never")
      ->check(CLI::IsMember({"auto", "always", "never"}));
}

void AddJobs(Parser& p) {
  CLI::App* jobs = p.AddGroup("jobs", "submit, watch, get, list, cancel, pause, resume, logs");
  CLI::App* submit = p.Add(jobs, "submit", "start a job from a file or from flags",
                           [&p](const GlobalOptions& g) { return JobsSubmit(g, p.submit); });
  submit->add_option("file", p.submit.file, "job file (YAML)");
  submit->add_option("--model", p.submit.model);
  submit->add_option("--dataset", p.submit.dataset);
  submit->add_option("--set", p.submit.set, "key=value, repeatable");
  submit->add_option("--request-id", p.submit.request_id, "the same id is the same job");
  submit->add_flag("--watch", p.submit.watch, "follow it to its end");
  submit->add_flag("--explain", p.submit.explain, "print every key with its default");
  const auto with_id = [&](const char* verb, const char* help, Command run) {
    CLI::App* sub = p.Add(jobs, verb, help, std::move(run));
    sub->add_option("id", p.name)->required();
    return sub;
  };
  with_id("watch", "follow a job", [&p](const GlobalOptions& g) { return JobsWatch(g, p.name); });
  with_id("get", "one job", [&p](const GlobalOptions& g) { return JobsGet(g, p.name); });
  with_id("pause", "end its processes with a checkpoint, and free its slots",
          [&p](const GlobalOptions& g) { return JobsPause(g, p.name); });
  with_id("resume", "let a paused job go on",
          [&p](const GlobalOptions& g) { return JobsResume(g, p.name); });
  with_id("cancel", "end a job", [&p](const GlobalOptions& g) { return JobsCancel(g, p.name); });
  with_id("logs", "output of the job's processes", [&p](const GlobalOptions& g) {
    return JobsLogs(g, p.name, p.follow);
  })->add_flag("--follow", p.follow, "stay until the job ends");
  p.Add(jobs, "list", "all jobs, newest first", JobsList);
}

void AddTune(Parser& p) {
  CLI::App* tune = p.Add(&p.app, "tune", "upload, check, train and say how to chat",
                         [&p](const GlobalOptions& g) { return Tune(g, p.tune); });
  tune->add_option("file", p.tune.file, ".json or .jsonl")->required();
  tune->add_option("--model", p.tune.model, "name, or path or hf:OWNER/NAME of a model to import")
      ->required();
  tune->add_option("--name", p.tune.name, "name of the tuned model");
  tune->add_option("--set", p.tune.set, "key=value, repeatable");
}

void AddChat(Parser& p) {
  CLI::App* chat = p.Add(&p.app, "chat", "talk to a model",
                         [&p](const GlobalOptions& g) { return Chat(g, p.chat); });
  chat->add_option("model", p.chat.model)->required();
  chat->add_option("--prompt", p.chat.prompts, "ask this and end, repeatable")->take_all();
  chat->add_option("--beside", p.chat.beside, "another model that answers the same");
  chat->add_option("--system", p.chat.system, "system message");
  chat->add_option("--messages", p.chat.messages,
                   "answer this conversation: a JSON list, as in rows")
      ->excludes("--prompt")
      ->excludes("--system");
  chat->add_option("--tools", p.chat.tools, "what the model may call: a JSON list of functions");
  chat->add_option("--max-tokens", p.chat.max_tokens)->check(CLI::Range(1, 4096));
  chat->add_option("--temperature", p.chat.temperature, "0: always the most likely token")
      ->check(CLI::Range(0.0, 5.0));
  chat->add_option("--top-p", p.chat.top_p)->check(CLI::Range(0.0, 1.0));
  chat->add_option("--top-k", p.chat.top_k, "draw from so many tokens; 0: from all");
  chat->add_option("--repetition-penalty", p.chat.repetition_penalty,
                   "above 1: what was said becomes less likely")
      ->check(CLI::Range(0.01, 10.0));
  chat->add_option("--stop", p.chat.stop, "ends the answer before this text, repeatable")
      ->take_all();
  chat->add_option("--seed", p.chat.seed);
}

void AddAdmin(Parser& p) {
  CLI::App* admin = p.AddGroup("admin", "backup, restore");
  CLI::App* backup = p.Add(admin, "backup", "write a backup while the service runs",
                           [&p](const GlobalOptions& g) { return AdminBackup(g, p.name); });
  backup->add_option("folder", p.name, "name of a new folder below the coordinator's --backup-dir")
      ->required();
  CLI::App* restore = p.Add(admin, "restore", "make a data folder from a backup on this machine",
                            [&p](const GlobalOptions& g) { return AdminRestore(g, p.restore); });
  restore->add_option("folder", p.restore.backup, "what a backup wrote")->required();
  restore->add_option("--data", p.restore.data, "new or empty; then: lathe up --data-dir with it")
      ->required();
}

int Main(int argc, char** argv) {
  Parser p;
  AddGlobals(p);
  AddUp(p);
  AddTune(p);
  AddModels(p);
  AddDatasets(p);
  AddJobs(p);
  AddChat(p);
  AddAdmin(p);
  CLI::App* workers = p.AddGroup("workers", "list");
  p.Add(workers, "list", "all workers", WorkersList);
  try {
    p.app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = p.app.exit(error);
    return code == 0 ? kDone : kUsage;
  }
  const absl::StatusOr<int> code = p.command(p.global);
  if (code.ok()) return *code;
  absl::FPrintF(stderr, "error: %s\n", code.status().message());
  return ExitCode(code.status());
}

}  // namespace
}  // namespace lathe::cli

int main(int argc, char** argv) { return lathe::cli::Main(argc, argv); }
