#include "worker/agent/gpus.h"

#include <algorithm>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace lathe::agent {
namespace {

constexpr absl::string_view kPrefix = "nvidia";

bool Contains(const std::vector<int>& numbers, int number) {
  return std::find(numbers.begin(), numbers.end(), number) != numbers.end();
}

absl::Status Refusal(absl::string_view flag, const std::vector<int>& present) {
  return absl::InvalidArgumentError(absl::StrCat(
      "--gpus is '", flag.substr(0, 80), "'; must be all or numbers like 0,2; this machine has ",
      present.empty() ? "no NVIDIA GPU" : absl::StrJoin(present, ",")));
}

}  // namespace

std::vector<int> PresentGpus(const std::filesystem::path& dev) {
  std::vector<int> present;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dev, error)) {
    const std::string name = entry.path().filename().string();
    int number = 0;
    if (absl::StartsWith(name, kPrefix) && absl::SimpleAtoi(name.substr(kPrefix.size()), &number)) {
      present.push_back(number);
    }
  }
  std::sort(present.begin(), present.end());
  return present;
}

absl::StatusOr<std::vector<int>> ParseGpus(absl::string_view flag,
                                           const std::vector<int>& present) {
  if (flag == "all" && !present.empty()) return present;
  std::vector<int> gpus;
  for (const absl::string_view part : absl::StrSplit(flag, ',')) {
    int number = 0;
    const bool valid = absl::SimpleAtoi(part, &number);
    if (!valid || !Contains(present, number) || Contains(gpus, number)) {
      return Refusal(flag, present);
    }
    gpus.push_back(number);
  }
  return gpus;
}

std::vector<int> TakeGpus(const std::vector<int>& gpus, const std::vector<int>& taken, int count) {
  std::vector<int> mine;
  for (const int gpu : gpus) {
    if (static_cast<int>(mine.size()) < count && !Contains(taken, gpu)) mine.push_back(gpu);
  }
  return mine;
}

}  // namespace lathe::agent
