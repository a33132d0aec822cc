#pragma once

#include <atomic>
#include <string>

#include "absl/strings/string_view.h"

namespace lathe::cli {

bool IsTerminal(int fd);
// Columns of the terminal on standard output, 80 if it is none.
int TerminalWidth();

enum class Color { kDim, kGreen, kYellow, kRed, kBold };

// "auto" looks at standard output and NO_COLOR; "always", "never".
bool UseColor(absl::string_view when);
std::string Paint(absl::string_view text, Color color, bool use);

// Catches SIGINT and SIGTERM for its scope; one at a time per process.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;
  static bool Interrupted();
};

// Text cut into lines of at most `width` columns at spaces.
std::string Wrap(absl::string_view text, int width, absl::string_view indent);

}  // namespace lathe::cli
