#include "common/spec/given.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace lathe {
namespace {

bool IsLora(const Field& field) { return absl::StartsWith(field.key, "lora."); }

}  // namespace

bool IsGiven(const Field& field, const JobSpec& spec) {
  return spec.given.contains(std::string(field.key)) ||
         FieldText(field, spec) != FieldText(field, JobSpec());
}

absl::Status CheckGiven(const JobSpec& spec) {
  if (!IsFullTuning(spec)) return absl::OkStatus();
  for (const Field& field : JobFields()) {
    if (!IsLora(field) || !IsGiven(field, spec)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(field.key, " is ", FieldText(field, spec).substr(0, 80),
                     "; method full trains every parameter and has no lora settings: drop it, or "
                     "set method sft"));
  }
  return absl::OkStatus();
}

absl::Status TakeOverLora(const LoraSpec& parent, JobSpec& spec) {
  JobSpec from;
  from.lora = parent;
  for (const Field& field : JobFields()) {
    if (!IsLora(field)) continue;
    const bool differs = FieldText(field, spec) != FieldText(field, from);
    if (!IsGiven(field, spec) || !differs) {
      field.set(spec, field.get(from));
    } else if (field.key != "lora.dropout") {
      return absl::InvalidArgumentError(
          absl::StrCat(field.key, " is ", FieldText(field, spec).substr(0, 80), "; parent_model '",
                       spec.parent_model, "' has ", FieldText(field, from).substr(0, 80),
                       ", which a job that goes on from it takes over: drop the setting"));
    }
  }
  return absl::OkStatus();
}

}  // namespace lathe
