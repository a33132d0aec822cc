#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

// What can be wrong with a row. The names are fixed: users and scripts see them (docs/data.md).

namespace lathe {

enum class ProblemCode {
  kBadUtf8,
  kBadJson,
  kBrokenList,
  kRowTooLarge,
  kTooDeep,
  kNotAnObject,
  kUnknownForm,
  kAmbiguousForm,
  kMissingField,
  kWrongType,
  kEmptyMessage,
  kEmptyAnswer,
  kUnknownRole,
  kBadRoleOrder,
  kTooManyMessages,
  kBadHistory,
  kBadWeight,
  kBadSplit,
  kBadTask,
  kNulCharacter,
  kBadTools,
  kBadToolCall,
  kUnknownTool,
  kToolWithoutCall,
  kTemplateRefused,
  kNotOneTurn,
  kTooLong,
  kNoTrainedToken,
  kInTraining,
  kTruncated,
  kControlCharacter,
  kDuplicateRow,
  kUnknownField,
  kWeightIgnored,
  kToolsIgnored,
  kThoughtIgnored,
};

enum class Severity { kError, kWarning };  // kError: the row is not used.

struct ProblemKind {
  ProblemCode code;
  absl::string_view name;
  Severity severity;
};

// In the order of ProblemCode.
std::span<const ProblemKind> ProblemKinds();
absl::string_view ProblemName(ProblemCode code);
Severity SeverityOf(ProblemCode code);

// About one row, by whoever looks at the row alone.
struct Finding {
  ProblemCode code = ProblemCode::kBadJson;
  std::string reason;
};

class Findings {
 public:
  // False, so that a check can `return findings.Add(...)`.
  bool Add(ProblemCode code, std::string reason) {
    list_.push_back({code, std::move(reason)});
    return false;
  }
  bool refused() const;
  // The first error. REQUIRES: refused().
  const Finding& first_error() const;
  const std::vector<Finding>& list() const { return list_; }

 private:
  std::vector<Finding> list_;
};

// A finding with its place in the user's file.
struct RowProblem {
  int64_t line = 0;  // Line of a JSONL file, element of a JSON list; from 1.
  int64_t row = 0;   // From 0, among all rows.
  ProblemCode code = ProblemCode::kBadJson;
  std::string reason;
};

// "line 3 (row 2): bad_json: ...".
std::string DescribeProblem(const RowProblem& problem);

}  // namespace lathe
