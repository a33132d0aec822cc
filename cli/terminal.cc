#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/config/environment.h"

namespace lathe::cli {
namespace {

volatile std::sig_atomic_t interrupted = 0;

void OnSignal(int) { interrupted = 1; }

void Install(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

bool IsTerminal(int fd) { return isatty(fd) == 1; }

int TerminalWidth() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return 80;
  return size.ws_col;
}

bool UseColor(absl::string_view when) {
  if (when == "always") return true;
  if (when == "never" || GetEnvironment("NO_COLOR").has_value()) return false;
  return IsTerminal(STDOUT_FILENO);
}

std::string Paint(absl::string_view text, Color color, bool use) {
  if (!use) return std::string(text);
  constexpr const char* kCodes[] = {"2", "32", "33", "31", "1"};
  return absl::StrCat("\x1b[", kCodes[static_cast<size_t>(color)], "m", text, "\x1b[0m");
}

InterruptScope::InterruptScope() {
  interrupted = 0;
  Install(OnSignal);
}

InterruptScope::~InterruptScope() { Install(SIG_DFL); }

bool InterruptScope::Interrupted() { return interrupted != 0; }

std::string Wrap(absl::string_view text, int width, absl::string_view indent) {
  std::string out;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    std::string current;
    for (absl::string_view word : absl::StrSplit(line, ' ')) {
      if (!current.empty() && current.size() + 1 + word.size() > static_cast<size_t>(width)) {
        absl::StrAppend(&out, indent, current, "\n");
        current.clear();
      }
      absl::StrAppend(&current, current.empty() ? "" : " ", word);
    }
    absl::StrAppend(&out, indent, current, "\n");
  }
  return out;
}

}  // namespace lathe::cli
