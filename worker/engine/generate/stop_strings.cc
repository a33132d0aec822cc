#include "worker/engine/generate/stop_strings.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"

namespace lathe {
namespace {

// Length of the longest end of `text` that begins `stop` without completing it.
size_t PartialLength(absl::string_view text, absl::string_view stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (absl::EndsWith(text, stop.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopStrings::Push(absl::string_view text) {
  if (found_) return "";
  held_.append(text.data(), text.size());
  size_t first = std::string::npos;
  size_t partial = 0;
  for (const std::string& stop : stops_) {
    first = std::min(first, held_.find(stop));
    partial = std::max(partial, PartialLength(held_, stop));
  }
  found_ = first != std::string::npos;
  const size_t safe = found_ ? first : held_.size() - partial;
  std::string result = held_.substr(0, safe);
  held_.erase(0, safe);
  return result;
}

std::string StopStrings::Finish() { return found_ ? "" : std::exchange(held_, ""); }

}  // namespace lathe
