#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "cli/commands.h"
#include "cli/connection.h"
#include "cli/merge.h"
#include "cli/model_source.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/terminal.h"
#include "cli/transfer.h"
#include "common/base/file.h"
#include "common/base/human.h"
#include "common/base/status.h"

namespace lathe::cli {
namespace {

constexpr int kStderr = 2;

std::string KindName(v1::ModelKind kind) {
  return kind == v1::MODEL_KIND_ADAPTER ? "adapter" : "base";
}

int64_t TreeBytes(const v1::FileTree& tree) {
  int64_t bytes = 0;
  for (const v1::FileRef& file : tree.files()) bytes += file.blob().size();
  return bytes;
}

absl::StatusOr<v1::Model> GetModel(Connection& connection, const std::string& name) {
  grpc::ClientContext context;
  connection.Prepare(context);
  v1::GetModelRequest request;
  request.set_name(name);
  v1::Model model;
  LATHE_RETURN_IF_ERROR(FromService(connection.models().GetModel(&context, request, &model)));
  return model;
}

absl::Status Download(Connection& connection, const v1::Model& model,
                      const std::filesystem::path& to) {
  Progress progress(IsTerminal(kStderr));
  return DownloadModel(connection, model, to, [&](int64_t done, int64_t all) {
    progress.Show(absl::StrCat(model.name(), ": ", HumanBytes(done), " of ", HumanBytes(all)),
                  absl::Now());
  });
}

// "base tiny, parent first, method sft, job job-..."
std::string Lineage(const v1::Model& model) {
  std::vector<std::string> parts;
  for (const auto& [what, value] :
       {std::pair("base", model.base_model()), std::pair("parent", model.parent_model()),
        std::pair("method", model.method()), std::pair("job", model.job_id())}) {
    if (!value.empty()) parts.push_back(absl::StrCat(what, " ", value));
  }
  return absl::StrJoin(parts, ", ");
}

void PrintModel(const v1::Model& model) {
  absl::PrintF("%s: %s, %s, %d parameters, %s\n", model.name(), KindName(model.kind()),
               model.architecture(), model.parameters(), HumanBytes(TreeBytes(model.files())));
  if (!model.job_id().empty()) absl::PrintF("  %s\n", Lineage(model));
  if (model.has_parity()) {
    absl::PrintF(
        "  verified: largest logit difference %.3g, KL %.3g, %.0f %% of greedy tokens equal\n",
        model.parity().max_logit_difference(), model.parity().kl(),
        100 * model.parity().greedy_agreement());
  }
  for (const v1::FileRef& file : model.files().files()) {
    absl::PrintF("  %s  %s  %s\n", file.blob().sha256().substr(0, 12),
                 HumanBytes(file.blob().size()), file.path());
  }
}

}  // namespace

absl::StatusOr<int> ModelsImport(const GlobalOptions& global, const ImportOptions& options) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  Progress progress(IsTerminal(kStderr));
  const auto show = [&](const std::string& line) {
    progress.Show(absl::StrCat(options.name, ": ", line), absl::Now());
  };
  LATHE_ASSIGN_OR_RETURN(const std::filesystem::path path,
                         LocalModel(global.hub, options.from.string(), show));
  LATHE_ASSIGN_OR_RETURN(const v1::Model model, ImportModel(*connection, options.name, path, show));
  progress.Clear();
  if (global.json) {
    PrintJson(model);
  } else {
    PrintModel(model);
  }
  return kDone;
}

absl::StatusOr<int> ModelsList(const GlobalOptions& global) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  grpc::ClientContext context;
  connection->Prepare(context);
  v1::ListModelsResponse response;
  LATHE_RETURN_IF_ERROR(FromService(connection->models().ListModels(&context, {}, &response)));
  if (global.json) {
    PrintJson(response);
    return kDone;
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Model& model : response.models()) {
    rows.push_back({model.name(), KindName(model.kind()), model.architecture(),
                    absl::StrCat(model.parameters()), HumanBytes(TreeBytes(model.files())),
                    model.base_model(), model.method(), model.parent_model(), model.job_id()});
  }
  PrintTable(
      {"NAME", "KIND", "ARCHITECTURE", "PARAMETERS", "SIZE", "BASE", "METHOD", "PARENT", "JOB"},
      rows);
  return kDone;
}

absl::StatusOr<int> ModelsGet(const GlobalOptions& global, const std::string& name) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  LATHE_ASSIGN_OR_RETURN(const v1::Model model, GetModel(*connection, name));
  if (global.json) {
    PrintJson(model);
  } else {
    PrintModel(model);
  }
  return kDone;
}

namespace {

// Not as the files are kept: one model in one place, computed from them.
bool IsWhole(const ExportOptions& options) {
  return options.merged || !options.gguf.empty() || !options.dtype.empty() ||
         !options.shard_size.empty();
}

absl::Status CheckKind(const v1::Model& model, const ExportOptions& options) {
  const bool adapter = model.kind() == v1::MODEL_KIND_ADAPTER;
  if (!adapter && (options.base || options.merged)) {
    return absl::InvalidArgumentError(absl::StrCat(model.name(), " is a whole model; ",
                                                   options.base ? "--base" : "--merged",
                                                   " is for adapters"));
  }
  if (options.merged && options.base) {
    return absl::InvalidArgumentError("--merged holds the base; drop --base");
  }
  if (!adapter || options.merged || !IsWhole(options)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      model.name(), " is an adapter; --gguf needs --merged, and so do --dtype and --shard-size"));
}

absl::Status CheckTarget(const ExportOptions& options) {
  if (options.gguf.empty()) return RequireNewOrEmptyFolder(options.to);
  if (options.to.extension() != ".gguf") {
    return absl::InvalidArgumentError(absl::StrCat(
        "--to got '", options.to.string(), "'; with --gguf it must be a new file, NAME.gguf"));
  }
  std::error_code error;
  if (!std::filesystem::exists(std::filesystem::symlink_status(options.to, error))) {
    return absl::OkStatus();
  }
  return absl::AlreadyExistsError(absl::StrCat(options.to.string(), ": is there already"));
}

// Base and adapter are fetched beside `options.to` and removed again.
absl::Status ExportWhole(Connection& connection, const v1::Model& model,
                         const ExportOptions& options) {
  LATHE_RETURN_IF_ERROR(CheckTarget(options));
  std::filesystem::path target = std::filesystem::absolute(options.to).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  LATHE_RETURN_IF_ERROR(MakeFolder(target.parent_path()));
  LATHE_ASSIGN_OR_RETURN(const TempFolder parts, TempFolder::Make(".parts", target.parent_path()));
  MergeRequest request = {.base = parts.path() / "base",
                          .adapter = {},
                          .to = target,
                          .dtype = options.dtype,
                          .shard_size = options.shard_size,
                          .gguf = options.gguf,
                          .name = model.name()};
  if (!options.merged) {
    LATHE_RETURN_IF_ERROR(Download(connection, model, request.base));
    return MergeFolders(request);
  }
  request.adapter = parts.path() / "adapter";
  LATHE_ASSIGN_OR_RETURN(const v1::Model base, GetModel(connection, model.base_model()));
  LATHE_RETURN_IF_ERROR(Download(connection, base, request.base));
  LATHE_RETURN_IF_ERROR(Download(connection, model, request.adapter));
  return MergeFolders(request);
}

void PrintWhole(const v1::Model& model, const ExportOptions& options) {
  if (options.merged) {
    absl::PrintF("%s: merged into %s in %s\n", model.name(), model.base_model(),
                 options.to.string());
  } else {
    absl::PrintF("%s: in %s\n", model.name(), options.to.string());
  }
}

}  // namespace

absl::StatusOr<int> ModelsExport(const GlobalOptions& global, const ExportOptions& options) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  LATHE_ASSIGN_OR_RETURN(const v1::Model model, GetModel(*connection, options.name));
  LATHE_RETURN_IF_ERROR(CheckKind(model, options));
  if (IsWhole(options)) {
    LATHE_RETURN_IF_ERROR(ExportWhole(*connection, model, options));
    if (global.json) {
      PrintJson(model);
    } else {
      PrintWhole(model, options);
    }
    return kDone;
  }
  LATHE_RETURN_IF_ERROR(Download(*connection, model, options.to));
  std::string base_dir;
  if (options.base) {
    LATHE_ASSIGN_OR_RETURN(const v1::Model base, GetModel(*connection, model.base_model()));
    base_dir = (options.to / "base").string();
    LATHE_RETURN_IF_ERROR(Download(*connection, base, base_dir));
  }
  if (global.json) {
    PrintJson(model);
    return kDone;
  }
  absl::PrintF("%s: %d files in %s\n", model.name(), model.files().files_size(),
               options.to.string());
  if (!base_dir.empty()) absl::PrintF("%s: base in %s\n", model.base_model(), base_dir);
  return kDone;
}

}  // namespace lathe::cli
