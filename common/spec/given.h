#pragma once

#include "absl/status/status.h"
#include "common/spec/field.h"
#include "common/spec/job_spec.h"

// What a user has written in a job, as opposed to what defaults filled in: a setting that would
// have no effect is refused, never ignored. For specs as users send them; in a resolved one every
// field looks given.

namespace lathe {

// True also for a value that differs from the default, however it came.
bool IsGiven(const Field& field, const JobSpec& spec);

// InvalidArgument: a setting that the method does not have, such as lora.rank with full.
absl::Status CheckGiven(const JobSpec& spec);

// Gives a job that goes on from an adapter the settings that the adapter was made with. Dropout may
// be set anew. InvalidArgument: the job gives another value; names both.
absl::Status TakeOverLora(const LoraSpec& parent, JobSpec& spec);

}  // namespace lathe
