#include "worker/trainer/machine.h"

#include <ATen/ATen.h>
#include <torch/headeronly/version.h>

#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/sha256.h"

namespace lathe {
namespace {

constexpr size_t kMaxCpuInfoBytes = size_t{4} << 20;
constexpr size_t kBuildDigits = 16;

// The kernel's names on x86, then those on ARM.
constexpr absl::string_view kCpuKeys[] = {"model name",  "cpu family",      "model",
                                          "stepping",    "CPU implementer", "CPU part",
                                          "CPU variant", "CPU revision"};

}  // namespace

std::string DescribeCpu(absl::string_view cpuinfo) {
  std::vector<std::string> parts;
  const absl::string_view first = cpuinfo.substr(0, cpuinfo.find("\n\n"));
  for (const absl::string_view line : absl::StrSplit(first, '\n')) {
    const std::pair<absl::string_view, absl::string_view> entry =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    const absl::string_view key = absl::StripAsciiWhitespace(entry.first);
    if (!absl::c_linear_search(kCpuKeys, key)) continue;
    parts.push_back(absl::StrCat(key, " ", absl::StripAsciiWhitespace(entry.second)));
  }
  return absl::StrJoin(parts, ", ");
}

std::string DescribeMachine(const std::string& device, int threads) {
  if (device != "cpu") return "";
  const absl::StatusOr<std::string> program = Sha256OfFile("/proc/self/exe");
  if (!program.ok()) return "";
  const absl::StatusOr<std::string> cpuinfo = ReadFile("/proc/cpuinfo", kMaxCpuInfoBytes);
  return absl::StrCat(cpuinfo.ok() ? DescribeCpu(*cpuinfo) : "", ", ", at::get_cpu_capability(),
                      ", libtorch ", TORCH_VERSION, ", build ", program->substr(0, kBuildDigits),
                      ", ", threads, threads == 1 ? " thread" : " threads");
}

}  // namespace lathe
