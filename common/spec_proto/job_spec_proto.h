#pragma once

#include "absl/status/statusor.h"
#include "common/spec/job_spec.h"
#include "lathe/v1/jobs.pb.h"

// JobSpec <-> lathe.v1.JobSpec, driven by JobFields(): a field that one side lacks fails a test,
// not a user.

namespace lathe {

// Every field set.
v1::JobSpec ToProto(const JobSpec& spec);
// Only what the user has set (common/spec/given.h): as a client sends it.
v1::JobSpec GivenToProto(const JobSpec& spec);

// Absent fields keep their default, the others are `given`; an empty list counts as absent. Ranges
// are not checked: see Validate().
absl::StatusOr<JobSpec> FromProto(const v1::JobSpec& proto);

}  // namespace lathe
