#include "worker/agent/thread_states.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace lathe::agent {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxThreads = 64;

std::string FirstLine(const fs::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// "S (sleeping)"; empty: it has ended.
std::string StateOf(const fs::path& task) {
  std::ifstream in(task / "status");
  for (std::string line; std::getline(in, line);) {
    absl::string_view state = line;
    if (absl::ConsumePrefix(&state, "State:")) {
      return std::string(absl::StripAsciiWhitespace(state));
    }
  }
  return "";
}

}  // namespace

std::vector<std::string> DescribeThreads(pid_t pid) {
  std::vector<std::string> lines;
  std::error_code error;
  for (fs::directory_iterator it(absl::StrCat("/proc/", pid, "/task"), error), end;
       !error && it != end && lines.size() < kMaxThreads; it.increment(error)) {
    const fs::path task = it->path();
    const std::string state = StateOf(task);
    if (state.empty()) continue;
    const std::string place = FirstLine(task / "wchan");
    const bool waits = !place.empty() && place != "0";
    lines.push_back(absl::StrCat("thread ", task.filename().string(), " ", FirstLine(task / "comm"),
                                 ": ", state, waits ? " in " : "", waits ? place : ""));
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

}  // namespace lathe::agent
