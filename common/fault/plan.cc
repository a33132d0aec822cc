#include "common/fault/plan.h"

#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace lathe::fault {
namespace {

absl::Status Wrong(absl::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat("LATHE_FAULT is '", text,
                   "'; must be POINT:ACTION[=VALUE][@HIT] with ACTION one of kill, stop, delay=MS, "
                   "error[=CODE], nospace"));
}

// False: there is no such action, or not with this value.
bool ReadAction(absl::string_view name, absl::string_view value, Plan& plan) {
  int number = 0;
  const bool has_number = absl::SimpleAtoi(value, &number) && number > 0;
  if (name == "delay" && has_number) {
    plan.action = Action::kDelay;
    plan.delay_ms = number;
    return true;
  }
  if (name == "error" && (value.empty() || (has_number && number <= 16))) {
    plan.action = Action::kError;
    if (has_number) plan.code = static_cast<absl::StatusCode>(number);
    return true;
  }
  if (!value.empty()) return false;
  if (name == "nospace") {
    plan.action = Action::kError;
    plan.code = absl::StatusCode::kResourceExhausted;
    return true;
  }
  plan.action = name == "stop" ? Action::kStop : Action::kKill;
  return name == "stop" || name == "kill";
}

}  // namespace

absl::StatusOr<Plan> ParsePlan(absl::string_view text) {
  const std::vector<absl::string_view> halves = absl::StrSplit(text, absl::MaxSplits(':', 1));
  if (halves.size() != 2 || halves[0].empty()) return Wrong(text);
  Plan plan;
  plan.point = std::string(halves[0]);
  const std::vector<absl::string_view> parts = absl::StrSplit(halves[1], absl::MaxSplits('@', 1));
  const bool hit_is_good =
      parts.size() == 1 || (absl::SimpleAtoi(parts[1], &plan.hit) && plan.hit > 0);
  const std::pair<absl::string_view, absl::string_view> action =
      absl::StrSplit(parts[0], absl::MaxSplits('=', 1));
  if (!hit_is_good || !ReadAction(action.first, action.second, plan)) return Wrong(text);
  return plan;
}

}  // namespace lathe::fault
