#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/connection.h"
#include "common/spec/job_spec.h"

namespace lathe::cli {

// "key=value" settings, in order. InvalidArgument names the setting.
absl::Status ApplySettings(const std::vector<std::string>& settings, JobSpec& spec);

// An empty request_id gets a new one.
absl::StatusOr<v1::Job> CreateJob(Connection& connection, const JobSpec& spec,
                                  const std::string& request_id);

}  // namespace lathe::cli
