#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/context.h"

// One function per command of docs/cli.md. Each returns the exit code, or an error that main prints
// as one line.

namespace lathe::cli {

struct UpOptions {
  int workers = 1;
  int slots = 1;
  std::string gpus;                  // Of the one worker, as lathe-worker --gpus; empty: none.
  int threads_per_slot = 0;          // 0: cores / (workers * slots), at least 1.
  int port = 0;                      // 0: any free one.
  std::filesystem::path backup_dir;  // Empty: in the coordinator's folder.
};
absl::StatusOr<int> Up(const GlobalOptions& global, const UpOptions& options);

struct ImportOptions {
  std::string name;
  std::filesystem::path from;
};
absl::StatusOr<int> ModelsImport(const GlobalOptions& global, const ImportOptions& options);
absl::StatusOr<int> ModelsList(const GlobalOptions& global);
absl::StatusOr<int> ModelsGet(const GlobalOptions& global, const std::string& name);
struct ExportOptions {
  std::string name;
  std::filesystem::path to;
  bool base = false;
  bool merged = false;     // Base and adapter in one.
  std::string dtype;       // Of a whole model: f32, bf16 or f16. Empty: f32.
  std::string shard_size;  // Of a whole model: "5GB". Empty: one file.
  std::string gguf;        // As one GGUF file instead of a folder: "f16" or "q8_0".
};
absl::StatusOr<int> ModelsExport(const GlobalOptions& global, const ExportOptions& options);

struct UploadOptions {
  std::string name;
  std::filesystem::path from;
  std::string format;
};
absl::StatusOr<int> DatasetsUpload(const GlobalOptions& global, const UploadOptions& options);
absl::StatusOr<int> DatasetsList(const GlobalOptions& global);
absl::StatusOr<int> DatasetsGet(const GlobalOptions& global, const std::string& name);
absl::StatusOr<int> DatasetsDelete(const GlobalOptions& global, const std::string& name);
struct CheckOptions {
  std::string name;
  std::string model;
  int64_t max_length = 0;
};
absl::StatusOr<int> DatasetsCheck(const GlobalOptions& global, const CheckOptions& options);
struct PreviewOptions {
  std::string name;
  std::string model;
  int64_t row = 0;
  int64_t max_length = 0;
  std::string color = "auto";
};
absl::StatusOr<int> DatasetsPreview(const GlobalOptions& global, const PreviewOptions& options);

struct SubmitOptions {
  std::filesystem::path file;  // Empty: model and dataset.
  std::string model;
  std::string dataset;
  std::vector<std::string> set;  // "key=value".
  std::string request_id;        // Empty: a new one.
  bool watch = false;
  bool explain = false;
};
absl::StatusOr<int> JobsSubmit(const GlobalOptions& global, const SubmitOptions& options);
absl::StatusOr<int> JobsWatch(const GlobalOptions& global, const std::string& id);
absl::StatusOr<int> JobsGet(const GlobalOptions& global, const std::string& id);
absl::StatusOr<int> JobsList(const GlobalOptions& global);
absl::StatusOr<int> JobsCancel(const GlobalOptions& global, const std::string& id);
absl::StatusOr<int> JobsPause(const GlobalOptions& global, const std::string& id);
absl::StatusOr<int> JobsResume(const GlobalOptions& global, const std::string& id);
absl::StatusOr<int> JobsLogs(const GlobalOptions& global, const std::string& id, bool follow);

struct TuneOptions {
  std::filesystem::path file;
  std::string model;  // A name, or a path to import first.
  std::string name;
  std::vector<std::string> set;
};
absl::StatusOr<int> Tune(const GlobalOptions& global, const TuneOptions& options);

struct ChatOptions {
  std::string model;
  std::string beside;
  std::vector<std::string> prompts;  // Empty: asks on the terminal.
  std::string system;
  std::filesystem::path messages;  // A JSON list, as in rows: asked once.
  std::filesystem::path tools;     // A JSON list of functions.
  int64_t max_tokens = 256;
  double temperature = 0;
  double top_p = 1;
  int64_t top_k = 0;  // 0: all tokens.
  double repetition_penalty = 1;
  std::vector<std::string> stop;
  int64_t seed = 0;
};
absl::StatusOr<int> Chat(const GlobalOptions& global, const ChatOptions& options);

absl::StatusOr<int> AdminBackup(const GlobalOptions& global, const std::string& folder);
struct RestoreOptions {
  std::filesystem::path backup;
  std::filesystem::path data;  // For `lathe up --data-dir`: new or empty.
};
absl::StatusOr<int> AdminRestore(const GlobalOptions& global, const RestoreOptions& options);

absl::StatusOr<int> WorkersList(const GlobalOptions& global);

}  // namespace lathe::cli
