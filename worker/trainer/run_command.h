#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/spec/job_spec.h"

namespace lathe {

// `lathe-trainer run JOB.yaml`: a whole job without the service. In the job file `model` is the
// path of a Hugging Face folder or a .gguf file, `dataset` that of a .json or .jsonl file,
// `parent_model` that of a PEFT folder.
struct RunCommand {
  std::filesystem::path job_file;
  std::optional<int> ranks;          // Instead of the file's.
  std::filesystem::path output_dir;  // Of the result; empty: ./NAME.
  int threads = 0;                   // Per rank; 0: the machine's, shared out.
};

// Imports, prepares, trains in `ranks` processes, again after a lost process up to max_restarts
// times, and writes the PEFT folder, or with method full the model. Cancelled: a signal came.
absl::Status RunRunCommand(const RunCommand& command);

// Exposed for tests.
struct RunPlan {
  JobSpec spec;  // Resolved; model, dataset and parent_model are names made from the paths.
  std::filesystem::path model;
  std::filesystem::path dataset;
  std::filesystem::path parent;  // Empty: there is none.
};
// NotFound: a path is not there. InvalidArgument: a value that is not allowed.
absl::StatusOr<RunPlan> PlanRun(JobSpec spec, std::optional<int> ranks);

// A job file that reads back as exactly `spec`.
std::string JobFileText(const JobSpec& spec);

}  // namespace lathe
