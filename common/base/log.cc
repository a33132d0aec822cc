#include "common/base/log.h"

#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace lathe {

void Log(LogLevel level, absl::string_view message) {
  constexpr absl::string_view kLetters = "IWE";
  std::string line =
      absl::StrCat(absl::FormatTime("%Y-%m-%d%ET%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()),
                   " ", kLetters.substr(static_cast<size_t>(level), 1), " ", message);
  std::replace(line.begin(), line.end(), '\n', ' ');
  line.push_back('\n');
  // One write per line, so that lines of several processes on one pipe do not mix.
  const ssize_t ignored = write(STDERR_FILENO, line.data(), line.size());
  static_cast<void>(ignored);
}

}  // namespace lathe
