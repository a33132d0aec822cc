#pragma once

#include "absl/status/statusor.h"
#include "lathe/internal/v1/child.pb.h"
#include "worker/prepare/parent_link.h"

namespace lathe {

// Does an import, check, preview or prepare task: convert, call, convert. InvalidArgument for other
// tasks; Cancelled if the agent asked for it.
absl::StatusOr<internal::v1::Done> RunTask(const internal::v1::Task& task, ParentLink& link);

// `lathe-prepare worker`: takes one task from `channel`, does it, answers. Returns the exit code.
int RunAsChild(ChildChannel& channel);

}  // namespace lathe
