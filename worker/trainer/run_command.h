#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/spec/job_spec.h"

namespace lathe {

// `lathe-trainer run JOB.yaml`: a whole job without the service. In the job file `model` is the
// path of a Hugging Face folder or a .gguf file, `dataset` that of a .json or .jsonl file.
struct RunCommand {
  std::filesystem::path job_file;
  std::optional<int> ranks;          // Instead of the file's.
  std::filesystem::path output_dir;  // Of the adapter; empty: ./NAME.
  int threads = 0;                   // Per rank; 0: the machine's, shared out.
};

// Imports, prepares, trains in `ranks` processes, again after a lost process up to max_restarts
// times, and writes the PEFT folder. Cancelled: a signal came.
absl::Status RunRunCommand(const RunCommand& command);

// Exposed for tests.
struct RunPlan {
  JobSpec spec;  // Resolved; model and dataset are names made from the paths.
  std::filesystem::path model;
  std::filesystem::path dataset;
};
// NotFound: a path is not there.
absl::StatusOr<RunPlan> PlanRun(JobSpec spec, std::optional<int> ranks);

// A job file that reads back as exactly `spec`.
std::string JobFileText(const JobSpec& spec);

}  // namespace lathe
