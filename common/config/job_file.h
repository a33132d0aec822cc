#pragma once

#include <filesystem>
#include "absl/strings/string_view.h"

#include "absl/status/statusor.h"
#include "common/spec/job_spec.h"

namespace lathe {

// A job file is YAML with the keys of JobFields(), nested or dotted. Unknown keys, duplicate keys,
// anchors and values of the wrong type are refused with their line. At most 1 MiB and 8 levels.
absl::StatusOr<JobSpec> ParseJobFile(absl::string_view yaml);
absl::StatusOr<JobSpec> LoadJobFile(const std::filesystem::path& path);

}  // namespace lathe
