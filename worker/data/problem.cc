#include "worker/data/problem.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace lathe {
namespace {

constexpr ProblemKind kKinds[] = {
    {ProblemCode::kBadUtf8, "bad_utf8", Severity::kError},
    {ProblemCode::kBadJson, "bad_json", Severity::kError},
    {ProblemCode::kBrokenList, "broken_list", Severity::kError},
    {ProblemCode::kRowTooLarge, "row_too_large", Severity::kError},
    {ProblemCode::kTooDeep, "too_deep", Severity::kError},
    {ProblemCode::kNotAnObject, "not_an_object", Severity::kError},
    {ProblemCode::kUnknownForm, "unknown_form", Severity::kError},
    {ProblemCode::kAmbiguousForm, "ambiguous_form", Severity::kError},
    {ProblemCode::kMissingField, "missing_field", Severity::kError},
    {ProblemCode::kWrongType, "wrong_type", Severity::kError},
    {ProblemCode::kEmptyMessage, "empty_message", Severity::kError},
    {ProblemCode::kEmptyAnswer, "empty_answer", Severity::kError},
    {ProblemCode::kUnknownRole, "unknown_role", Severity::kError},
    {ProblemCode::kBadRoleOrder, "bad_role_order", Severity::kError},
    {ProblemCode::kTooManyMessages, "too_many_messages", Severity::kError},
    {ProblemCode::kBadHistory, "bad_history", Severity::kError},
    {ProblemCode::kBadWeight, "bad_weight", Severity::kError},
    {ProblemCode::kBadSplit, "bad_split", Severity::kError},
    {ProblemCode::kBadTask, "bad_task", Severity::kError},
    {ProblemCode::kNulCharacter, "nul_character", Severity::kError},
    {ProblemCode::kBadTools, "bad_tools", Severity::kError},
    {ProblemCode::kBadToolCall, "bad_tool_call", Severity::kError},
    {ProblemCode::kUnknownTool, "unknown_tool", Severity::kError},
    {ProblemCode::kToolWithoutCall, "tool_without_call", Severity::kError},
    {ProblemCode::kTemplateRefused, "template_refused", Severity::kError},
    {ProblemCode::kNotOneTurn, "not_one_turn", Severity::kError},
    {ProblemCode::kTooLong, "too_long", Severity::kError},
    {ProblemCode::kNoTrainedToken, "no_trained_token", Severity::kError},
    {ProblemCode::kInTraining, "in_training", Severity::kError},
    {ProblemCode::kTruncated, "truncated", Severity::kWarning},
    {ProblemCode::kControlCharacter, "control_character", Severity::kWarning},
    {ProblemCode::kDuplicateRow, "duplicate_row", Severity::kWarning},
    {ProblemCode::kUnknownField, "unknown_field", Severity::kWarning},
    {ProblemCode::kWeightIgnored, "weight_ignored", Severity::kWarning},
    {ProblemCode::kToolsIgnored, "tools_ignored", Severity::kWarning},
    {ProblemCode::kThoughtIgnored, "thought_ignored", Severity::kWarning},
};

const ProblemKind& KindOf(ProblemCode code) { return kKinds[static_cast<size_t>(code)]; }

bool IsError(const Finding& finding) { return SeverityOf(finding.code) == Severity::kError; }

}  // namespace

std::span<const ProblemKind> ProblemKinds() { return kKinds; }
absl::string_view ProblemName(ProblemCode code) { return KindOf(code).name; }
Severity SeverityOf(ProblemCode code) { return KindOf(code).severity; }

bool Findings::refused() const { return std::any_of(list_.begin(), list_.end(), IsError); }

const Finding& Findings::first_error() const {
  return *std::find_if(list_.begin(), list_.end(), IsError);
}

std::string DescribeProblem(const RowProblem& problem) {
  return absl::StrCat("line ", problem.line, " (row ", problem.row,
                      "): ", ProblemName(problem.code), ": ", problem.reason);
}

}  // namespace lathe
