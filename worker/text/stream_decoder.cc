#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "worker/text/text_model.h"

// `pending_` is a window of ids that ends in the `num_waiting_` ones since the text was last whole;
// `pending_text_` is what of the window's text is out. The ids before stay as context: some
// decoders treat the first word of a text differently.

namespace lathe {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";
// A character has at most four bytes: after four tokens without progress there is none to wait for.
constexpr int kMaxStalled = 4;

}  // namespace

std::string StreamDecoder::Push(int32_t id) {
  pending_.push_back(id);
  ++num_waiting_;
  const std::string text = model_.Decode(pending_);
  const bool is_open = absl::EndsWith(text, kReplacement);
  const bool is_prefix_kept = absl::StartsWith(text, pending_text_);
  if (is_prefix_kept && !is_open) return Emit();
  const size_t num_whole = text.size() - (is_open ? kReplacement.size() : 0);
  if (is_prefix_kept && num_whole > pending_text_.size()) {
    const std::string out = text.substr(pending_text_.size(), num_whole - pending_text_.size());
    pending_text_ += out;
    num_stalled_ = 0;
    return out;
  }
  return ++num_stalled_ < kMaxStalled ? "" : Emit();
}

std::string StreamDecoder::Finish() {
  std::string out = Emit();
  pending_.clear();
  pending_text_.clear();
  return out;
}

std::string StreamDecoder::Emit() {
  const std::string text = model_.Decode(pending_);
  const std::string shown = std::move(pending_text_);
  pending_.erase(pending_.begin(), pending_.end() - static_cast<std::ptrdiff_t>(num_waiting_));
  pending_text_ = model_.Decode(pending_);
  num_waiting_ = 0;
  num_stalled_ = 0;
  // Bytes that complete what went out as a broken character change it: they stand for themselves.
  return absl::StartsWith(text, shown) ? text.substr(shown.size()) : pending_text_;
}

}  // namespace lathe
