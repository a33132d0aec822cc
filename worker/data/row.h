#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "worker/data/problem.h"
#include "worker/text/conversation.h"

// One JSON object of a user becomes a conversation, or a reason why not. The forms are in
// docs/data.md.

namespace lathe {

enum class RowForm { kAlpaca, kMessages };
absl::string_view RowFormName(RowForm form);  // "alpaca", "messages".

enum class RowSplit { kUnset, kTraining, kValidation };

struct Row {
  Conversation conversation;
  RowForm form = RowForm::kAlpaca;
  RowSplit split = RowSplit::kUnset;
  std::string task;
  std::string tools;  // A JSON list as templates see it; empty: none.
};

struct ParsedRow {
  std::optional<Row> row;  // Set exactly if no finding is an error.
  Findings findings;
};

inline constexpr int kMaxJsonDepth = 64;
inline constexpr size_t kMaxMessages = 1024;
inline constexpr size_t kMaxTaskBytes = 128;

// Depth of brackets outside strings. Counted before parsing: a deep value must not cost memory.
int BracketDepth(absl::string_view json_text);

// Pure.
ParsedRow ParseRow(absl::string_view json_text);

}  // namespace lathe
