#include <algorithm>
#include <type_traits>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "common/base/status.h"
#include "common/spec/field.h"
#include "common/spec/given.h"
#include "nlohmann/json.hpp"
#include "worker/trainer/run_command.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

// The service's specs hold names; here the last part of a path stands in for one.
std::string NameFrom(const fs::path& path) {
  const std::string stem = fs::weakly_canonical(path).stem().string();
  std::string name;
  for (const char c : stem) {
    const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
    name += absl::ascii_isalnum(static_cast<unsigned char>(lower)) ? lower : '-';
  }
  name.erase(0, std::min(name.find_first_not_of('-'), name.size()));
  return name.empty() ? "unnamed" : name.substr(0, 40);
}

absl::StatusOr<fs::path> FindPath(absl::string_view key, const std::string& value) {
  if (value.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("job file has no '", key, "'; lathe-trainer run needs a path there"));
  }
  std::error_code error;
  const fs::path path(value);
  if (fs::exists(path, error)) return path;
  return absl::NotFoundError(absl::StrCat(
      key, " is '", value.substr(0, 200),
      "'; lathe-trainer run needs a path that is there (names are for 'lathe jobs submit')"));
}

nlohmann::json ToJson(const FieldValue& value) {
  return std::visit([](const auto& plain) { return nlohmann::json(plain); }, value);
}

}  // namespace

absl::StatusOr<RunPlan> PlanRun(JobSpec spec, std::optional<int> ranks) {
  RunPlan plan;
  LATHE_ASSIGN_OR_RETURN(plan.model, FindPath("model", spec.model));
  LATHE_ASSIGN_OR_RETURN(plan.dataset, FindPath("dataset", spec.dataset));
  if (!spec.parent_model.empty()) {
    LATHE_ASSIGN_OR_RETURN(plan.parent, FindPath("parent_model", spec.parent_model));
    spec.parent_model = NameFrom(plan.parent);
  }
  spec.model = NameFrom(plan.model);
  spec.dataset = NameFrom(plan.dataset);
  if (ranks) spec.ranks = *ranks;
  spec.min_ranks = std::min(spec.min_ranks, spec.ranks);
  LATHE_RETURN_IF_ERROR(Validate(spec));
  LATHE_RETURN_IF_ERROR(CheckGiven(spec));
  const std::string ulid = NewUlid();
  plan.spec = Resolve(std::move(spec), ulid.substr(ulid.size() - 6));
  return plan;
}

std::string JobFileText(const JobSpec& spec) {
  std::string text;
  for (const Field& field : JobFields()) {
    // JSON values are YAML values, and their numbers keep every bit.
    absl::StrAppend(&text, field.key, ": ", ToJson(field.get(spec)).dump(), "\n");
  }
  return text;
}

}  // namespace lathe
