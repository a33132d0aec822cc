#include "worker/engine/generate/generate.h"

#include "absl/strings/str_cat.h"

namespace lathe {
namespace {

constexpr int kMaxTokens = 1 << 20;
constexpr size_t kMaxStopStrings = 16;

}  // namespace

absl::Status GenerateOptions::Validate() const {
  if (max_tokens < 1 || max_tokens > kMaxTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", max_tokens, "; must be in [1, ", kMaxTokens, "]"));
  }
  if (stop_strings.size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there are ", stop_strings.size(), " stop strings; must be at most ", kMaxStopStrings));
  }
  return sample.Validate();
}

}  // namespace lathe
