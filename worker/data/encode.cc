#include "worker/data/encode.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/data/utf8.h"

namespace lathe {
namespace {

// What the template cannot do with this row; anything else is no fault of the row.
bool IsRowsFault(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsUnimplemented(status) ||
         absl::IsOutOfRange(status);
}

void CheckLength(size_t tokens, const RowLength& length, TooLong too_long, Findings& findings) {
  if (tokens <= static_cast<size_t>(length.tokens())) return;
  const std::string limit = length.max_length <= length.max_positions
                                ? absl::StrCat("max_length is ", length.max_length)
                                : absl::StrCat("the model has ", length.max_positions,
                                               " positions, max_length is ", length.max_length);
  const std::string sizes = absl::StrCat("has ", tokens, " tokens; ", limit);
  if (too_long == TooLong::kTruncateAnswer) {
    findings.Add(ProblemCode::kTruncated, absl::StrCat(sizes, "; the end is cut off"));
  } else {
    findings.Add(ProblemCode::kTooLong, sizes);
  }
}

// What the template leaves out of the row.
void CheckShown(const TemplateTraits& traits, const Conversation& conversation,
                absl::string_view tools, Findings& findings) {
  constexpr absl::string_view kLost = "which the model's chat template does not show: lost";
  bool loses_calls = false;
  bool loses_thoughts = false;
  for (size_t i = 0; i < conversation.size(); ++i) {
    const MessageParts parts = PartsOf(conversation[i]);
    loses_calls = loses_calls || (parts.has_calls && !traits.shows_calls);
    loses_thoughts = loses_thoughts || (parts.has_thought && !traits.shows_thoughts);
    if (parts.has_calls && !traits.shows_calls && conversation[i].trained &&
        conversation[i].content.empty()) {
      findings.Add(ProblemCode::kEmptyAnswer,
                   absl::StrCat("messages[", i, "] has only tool_calls, ", kLost));
    }
  }
  if (!tools.empty() && !traits.shows_tools) {
    findings.Add(ProblemCode::kToolsIgnored, absl::StrCat("has tools, ", kLost));
  }
  if (loses_calls) {
    findings.Add(ProblemCode::kToolsIgnored, absl::StrCat("has tool_calls, ", kLost));
  }
  if (loses_thoughts) {
    findings.Add(ProblemCode::kThoughtIgnored, absl::StrCat("has reasoning_content, ", kLost));
  }
}

}  // namespace

TooLong ParseTooLong(absl::string_view on_too_long) {
  if (on_too_long == "drop") return TooLong::kDrop;
  return on_too_long == "error" ? TooLong::kError : TooLong::kTruncateAnswer;
}

absl::StatusOr<EncodedRow> EncodeRow(const TextModel& model, const Conversation& conversation,
                                     const RowLength& length, TooLong too_long, Findings& findings,
                                     absl::string_view tools) {
  absl::StatusOr<std::vector<RenderedToken>> rendered =
      model.Render(WithFittingArguments(model.traits(), conversation),
                   /*generation_prompt=*/false, tools);
  EncodedRow row;
  if (!rendered.ok()) {
    if (!IsRowsFault(rendered.status())) return rendered.status();
    const ProblemCode code =
        model.is_encoder_decoder() ? ProblemCode::kNotOneTurn : ProblemCode::kTemplateRefused;
    findings.Add(code, OneLine(rendered.status().message(), 300));
    return row;
  }
  row.rendered = *std::move(rendered);
  CheckShown(model.traits(), conversation, tools, findings);
  CheckLength(row.rendered.size(), length, too_long, findings);
  const size_t kept = std::min(row.rendered.size(), static_cast<size_t>(length.tokens()));
  row.ids.reserve(kept);
  row.trained.reserve(kept);
  for (size_t i = 0; i < kept; ++i) {
    row.ids.push_back(row.rendered[i].id);
    row.trained.push_back(i > 0 && row.rendered[i].trained ? 1 : 0);
  }
  if (std::find(row.trained.begin(), row.trained.end(), 1) == row.trained.end()) {
    findings.Add(ProblemCode::kNoTrainedToken,
                 absl::StrCat("none of its first ", kept, " tokens is trained"));
  }
  return row;
}

absl::string_view TokenReason(const EncodedRow& row, const Conversation& conversation,
                              size_t index) {
  if (index >= row.ids.size()) return "truncated";
  const RenderedToken& token = row.rendered[index];
  switch (token.source) {
    case TokenSource::kTemplate:
      return "template";
    case TokenSource::kTools:
      return "tools";
    case TokenSource::kTool:
      return "tool";
    case TokenSource::kSystem:
      return "system";
    case TokenSource::kUser:
      return "user";
    case TokenSource::kAssistant:
      break;
  }
  const bool known = token.message >= 0 && static_cast<size_t>(token.message) < conversation.size();
  return known && !conversation[static_cast<size_t>(token.message)].trained ? "history"
                                                                            : "assistant";
}

}  // namespace lathe
