#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lathe::fault {

enum class Action { kKill, kStop, kDelay, kError };

// One fault, as LATHE_FAULT describes it (fault.h).
struct Plan {
  std::string point;
  Action action = Action::kKill;
  int delay_ms = 0;
  absl::StatusCode code = absl::StatusCode::kInternal;  // Of kError.
  int hit = 1;
};

// InvalidArgument: what is wrong and what is allowed.
absl::StatusOr<Plan> ParsePlan(absl::string_view text);

}  // namespace lathe::fault
