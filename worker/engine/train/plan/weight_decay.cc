#include "worker/engine/train/plan/weight_decay.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"

namespace lathe {

bool HasWeightDecay(absl::string_view name) {
  const std::string lower = absl::AsciiStrToLower(name);
  for (const char* part : {"bias", "layernorm", "rmsnorm"}) {
    if (absl::StrContains(lower, part)) return false;
  }
  const std::vector<absl::string_view> modules = absl::StrSplit(lower, '.');
  return std::none_of(modules.begin(), modules.end(), [](absl::string_view module) {
    return module == "norm" || absl::EndsWith(module, "_norm");
  });
}

}  // namespace lathe
