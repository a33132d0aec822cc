#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "coordinator/core/records.h"

// Records <-> JSON, for the columns that nobody queries. Unknown keys are ignored and absent ones
// keep their default, so that a newer program reads an older database.

namespace lathe {

std::string TreeToJson(const FileTree& tree);
absl::StatusOr<FileTree> TreeFromJson(const std::string& json);
// All of a job except id, state and attempt, which are columns.
std::string JobToJson(const Job& job);
absl::Status JobFromJson(const std::string& json, Job& job);
std::string DatasetToJson(const Dataset& dataset);
absl::StatusOr<Dataset> DatasetFromJson(const std::string& json);
std::string ModelToJson(const Model& model);
absl::StatusOr<Model> ModelFromJson(const std::string& json);

}  // namespace lathe
