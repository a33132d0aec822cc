#pragma once

#include "absl/status/statusor.h"
#include "common/spec/job_spec.h"
#include "lathe/v1/jobs.pb.h"

// JobSpec <-> lathe.v1.JobSpec, driven by JobFields(): a field that one side lacks fails a test,
// not a user.

namespace lathe {

// Every field set.
v1::JobSpec ToProto(const JobSpec& spec);

// Absent fields keep their default; an empty list counts as absent. Ranges are not checked: see
// Validate().
absl::StatusOr<JobSpec> FromProto(const v1::JobSpec& proto);

}  // namespace lathe
