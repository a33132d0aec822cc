#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "coordinator/core/core.h"

// What is kept of a training that stood still, for people: who was blamed, what every rank said
// last, the settings, versions. The stacks of its processes are in the job's log. Nothing of it is
// secret.

namespace lathe {

// One JSON document.
std::string HangReportText(const HangReport& report);

// Writes FOLDER/JOB-attempt-N.json. The folder is made if it is not there.
absl::Status KeepHangReport(const std::filesystem::path& folder, const HangReport& report);

}  // namespace lathe
