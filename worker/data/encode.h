#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/problem.h"
#include "worker/data/shard.h"
#include "worker/text/text_model.h"

// Conversation -> tokens and mask.

namespace lathe {

struct EncodedRow {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trained;  // As long as ids. trained[0] is 0: nothing predicts it.
  // All tokens of the template, also those after ids.size() that were cut off.
  std::vector<RenderedToken> rendered;

  bool truncated() const { return ids.size() < rendered.size(); }
  TokenRow view(int64_t row) const { return TokenRow{ids, trained, row}; }
};

// Tokens a row may have.
struct RowLength {
  int64_t max_length = 2048;                                    // JobSpec::max_length.
  int64_t max_positions = std::numeric_limits<int64_t>::max();  // The model's.

  int64_t tokens() const { return max_length < max_positions ? max_length : max_positions; }
};

enum class TooLong { kTruncateAnswer, kDrop, kError };
// REQUIRES: a valid JobSpec::on_too_long.
TooLong ParseTooLong(absl::string_view on_too_long);

// A row of more than `length` tokens loses its end, which is the answer (kTruncateAnswer, with
// the warning kTruncated), or is refused with kTooLong. Refused as well: what the template refuses
// or, of an encoder-decoder, is not one question and one answer; and a row of whose trained tokens
// none is left, or of an answer that is nothing but calls that the template does not show. What
// else of `tools` (a JSON list, or empty), calls and thoughts it does not show is a warning. If
// `findings` has an error the row must not be used. A status is a fault of ours.
absl::StatusOr<EncodedRow> EncodeRow(const TextModel& model, const Conversation& conversation,
                                     const RowLength& length, TooLong too_long, Findings& findings,
                                     absl::string_view tools = "");

// Why a token is there: "template", "tools" (the list of tools), "system", "user", "tool" (what a
// tool answered), "assistant" (an answer that is trained), "history" (an answer with weight 0),
// "truncated" (cut off, not in the row).
// REQUIRES: index < row.rendered.size().
absl::string_view TokenReason(const EncodedRow& row, const Conversation& conversation,
                              size_t index);

}  // namespace lathe
