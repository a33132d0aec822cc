#include "worker/prepare/commands.h"

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "worker/data/dataset.h"
#include "worker/data/utf8.h"
#include "worker/formats/gguf_export.h"
#include "worker/formats/import.h"
#include "worker/formats/merge.h"
#include "worker/formats/model_config.h"

namespace lathe {
namespace {

constexpr size_t kProblemsShown = 20;

struct Arguments {
  std::string file;
  std::string format;
  std::string model;
  std::string out;
  int64_t row = 0;
  bool json = false;
  std::vector<std::string> settings;  // "key=value".
  std::string adapter;
  std::string dtype = "f32";
  uint64_t shard_bytes = 0;
  std::string gguf;  // "f16", "q8_0" or empty.
  std::string name;
};

DataSource SourceOf(const Arguments& arguments) { return {arguments.file, arguments.format}; }

absl::StatusOr<DatasetOptions> OptionsOf(const Arguments& arguments) {
  DatasetOptions options;
  options.threads = static_cast<int>(std::thread::hardware_concurrency());
  for (const std::string& setting : arguments.settings) {
    const std::vector<std::string> parts = absl::StrSplit(setting, absl::MaxSplits('=', 1));
    if (parts.size() != 2) {
      return absl::InvalidArgumentError(
          absl::StrCat("--set got ", Quoted(setting), "; must be key=value"));
    }
    LATHE_RETURN_IF_ERROR(SetDataField(options.spec, parts[0], parts[1]));
  }
  return options;
}

// Sets what rows may not be longer than.
absl::StatusOr<std::unique_ptr<TextModel>> LoadModel(const Arguments& arguments,
                                                     DatasetOptions& options) {
  LATHE_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(arguments.model));
  options.max_positions = config.max_positions;
  return TextModel::Load(arguments.model);
}

std::string CountsText(const std::map<std::string, int64_t>& counts) {
  return absl::StrJoin(counts, ", ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, entry.first, " ", entry.second);
  });
}

void PrintReport(const DatasetReport& report, bool with_tokens) {
  absl::PrintF("rows %d, good %d, refused %d; training %d, validation %d\n", report.rows,
               report.good_rows, report.refused_rows, report.training_rows, report.validation_rows);
  if (with_tokens) {
    absl::PrintF("tokens %d, trained %d, longest row %d, truncated rows %d\n", report.total_tokens,
                 report.trained_tokens, report.longest_row_tokens, report.truncated_rows);
  }
  absl::PrintF("forms: %s\n", CountsText(report.rows_by_format));
  if (!report.rows_by_task.empty()) absl::PrintF("tasks: %s\n", CountsText(report.rows_by_task));
  const size_t shown = std::min(report.problems.size(), kProblemsShown);
  for (size_t i = 0; i < shown; ++i) {
    const RowProblem& problem = report.problems[i];
    const bool error = SeverityOf(problem.code) == Severity::kError;
    absl::PrintF("%s: %s\n", error ? "error" : "warning", DescribeProblem(problem));
  }
  if (report.problems_total > static_cast<int64_t>(shown)) {
    absl::PrintF("... and %d more; --json names up to 1000\n",
                 report.problems_total - static_cast<int64_t>(shown));
  }
}

void PrintPreview(const DatasetPreview& preview) {
  absl::PrintF("row %d, line %d, row sha256 %s\n", preview.row, preview.line, preview.row_sha256);
  for (const PreviewToken& token : preview.tokens) {
    absl::PrintF("%7d  %-9s  %-10s  %s\n", token.id, token.trained ? "trained" : "", token.reason,
                 absl::Utf8SafeCEscape(token.text));
  }
}

void Print(const Arguments& arguments, const DatasetReport& report) {
  if (arguments.json) {
    absl::PrintF("%s\n", ReportToJson(report));
  } else {
    PrintReport(report, !arguments.model.empty());
  }
}

absl::Status Check(const Arguments& arguments) {
  LATHE_ASSIGN_OR_RETURN(DatasetOptions options, OptionsOf(arguments));
  std::unique_ptr<TextModel> model;
  if (!arguments.model.empty()) {
    LATHE_ASSIGN_OR_RETURN(model, LoadModel(arguments, options));
  }
  LATHE_ASSIGN_OR_RETURN(const DatasetReport report,
                         CheckDataset(SourceOf(arguments), model.get(), options));
  Print(arguments, report);
  if (report.good_rows > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(arguments.file, ": none of ", report.rows, " rows can be used"));
}

absl::Status Preview(const Arguments& arguments) {
  LATHE_ASSIGN_OR_RETURN(DatasetOptions options, OptionsOf(arguments));
  LATHE_ASSIGN_OR_RETURN(const auto model, LoadModel(arguments, options));
  LATHE_ASSIGN_OR_RETURN(const DatasetPreview preview,
                         PreviewRow(SourceOf(arguments), *model, arguments.row, options));
  if (arguments.json) {
    absl::PrintF("%s\n", PreviewToJson(preview));
  } else {
    PrintPreview(preview);
  }
  return absl::OkStatus();
}

absl::Status Prepare(const Arguments& arguments) {
  LATHE_ASSIGN_OR_RETURN(DatasetOptions options, OptionsOf(arguments));
  LATHE_ASSIGN_OR_RETURN(const auto model, LoadModel(arguments, options));
  LATHE_ASSIGN_OR_RETURN(const DatasetReport report,
                         PrepareDataset(SourceOf(arguments), *model, arguments.out, options));
  Print(arguments, report);
  return absl::OkStatus();
}

absl::Status Import(const Arguments& arguments) {
  const auto progress = [](const std::string& line) { absl::FPrintF(stderr, "%s\n", line); };
  LATHE_ASSIGN_OR_RETURN(const ImportedModel model,
                         ImportModel(arguments.file, arguments.out, progress));
  absl::PrintF("imported %s, %d parameters, to %s\n", model.architecture, model.parameters,
               arguments.out);
  return absl::OkStatus();
}

absl::Status Merge(const Arguments& arguments) {
  const auto progress = [](const std::string& line) { absl::FPrintF(stderr, "%s\n", line); };
  if (!arguments.gguf.empty()) {
    const GgufExportOptions options = {
        .type = arguments.gguf == "f16" ? GgmlType::kF16 : GgmlType::kQ8_0, .name = arguments.name};
    return ExportGguf(arguments.model, arguments.adapter, arguments.out, options, progress);
  }
  const MergeOptions options = {.dtype = arguments.dtype == "f32"   ? Dtype::kF32
                                         : arguments.dtype == "f16" ? Dtype::kF16
                                                                    : Dtype::kBf16,
                                .max_shard_bytes = arguments.shard_bytes};
  return MergeAdapter(arguments.model, arguments.adapter, arguments.out, options, progress);
}

using Command = absl::Status (*)(const Arguments&);

// The arguments live as long as the callback, which the app owns.
CLI::App* AddCommand(CLI::App& app, const char* name, const char* help, Command command,
                     const std::shared_ptr<Arguments>& arguments, int& exit_code) {
  CLI::App* added = app.add_subcommand(name, help);
  added->callback([command, arguments, &exit_code] {
    const absl::Status status = command(*arguments);
    if (status.ok()) return;
    exit_code = 1;
    absl::FPrintF(stderr, "lathe-prepare: %s\n", status.message());
  });
  return added;
}

CLI::App* AddDataCommand(CLI::App& app, const char* name, const char* help, Command command,
                         const std::shared_ptr<Arguments>& arguments, int& exit_code) {
  CLI::App* added = AddCommand(app, name, help, command, arguments, exit_code);
  added->add_option("file", arguments->file, "data set: JSON or JSONL")->required();
  added->add_option("--format", arguments->format, "json or jsonl; default: seen from the file");
  added->add_option("--set", arguments->settings, "key=value of a job file, such as max_length=512")
      ->allow_extra_args(false);
  added->add_flag("--json", arguments->json, "print one JSON document");
  return added;
}

}  // namespace

void AddCommands(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<Arguments>();
  const char* const model_help = "model folder that import wrote";
  CLI::App* check = AddDataCommand(app, "check", "judge every row", Check, arguments, exit_code);
  check->add_option("--model", arguments->model, model_help);
  CLI::App* preview =
      AddDataCommand(app, "preview", "show the tokens of one row", Preview, arguments, exit_code);
  preview->add_option("--model", arguments->model, model_help)->required();
  preview->add_option("--row", arguments->row, "number of the row, from 0")->required();
  CLI::App* prepare =
      AddDataCommand(app, "prepare", "write shards for training", Prepare, arguments, exit_code);
  prepare->add_option("--model", arguments->model, model_help)->required();
  prepare->add_option("--out", arguments->out, "folder to fill")->required();
  CLI::App* import =
      AddCommand(app, "import", "write a model's canonical folder", Import, arguments, exit_code);
  import->add_option("source", arguments->file, "Hugging Face folder or .gguf file")->required();
  import->add_option("--out", arguments->out, "new folder")->required();
  CLI::App* merge =
      AddCommand(app, "merge", "write base and adapter as one model", Merge, arguments, exit_code);
  merge->add_option("--base", arguments->model, model_help)->required();
  merge->add_option("--adapter", arguments->adapter, "PEFT folder; default: the base alone");
  merge->add_option("--out", arguments->out, "new Hugging Face folder, or FILE.gguf")->required();
  CLI::Option* dtype =
      merge->add_option("--dtype", arguments->dtype, "of the weights: f32, bf16 or f16");
  dtype->check(CLI::IsMember({"f32", "bf16", "f16"}));
  CLI::Option* shards =
      merge->add_option("--shard-size", arguments->shard_bytes, "such as 5GB; default: one file");
  shards->transform(CLI::AsSizeValue(/*kb_is_1000=*/true));
  CLI::Option* gguf = merge->add_option("--gguf", arguments->gguf,
                                        "one GGUF file instead, of the type f16 or q8_0");
  gguf->check(CLI::IsMember({"f16", "q8_0"}))->excludes(dtype)->excludes(shards);
  merge->add_option("--name", arguments->name, "general.name; default: the file's")->needs(gguf);
}

}  // namespace lathe
