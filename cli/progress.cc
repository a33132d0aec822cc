#include "cli/progress.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/output.h"

namespace lathe::cli {
namespace {

constexpr absl::Duration kPlainInterval = absl::Seconds(10);

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + 1e-9 * duration.nanos();
}

std::string Bar(int64_t done, int64_t all, int width) {
  const int64_t filled = all > 0 ? std::clamp<int64_t>(done * width / all, 0, width) : 0;
  std::string bar(static_cast<size_t>(filled), '=');
  if (filled > 0 && filled < width) bar.back() = '>';
  return absl::StrCat("[", bar, std::string(static_cast<size_t>(width - filled), ' '), "]");
}

}  // namespace

std::string ProgressLine(const v1::StepStats& step, int width) {
  const std::string head = absl::StrCat("step ", step.step(), "/", step.num_steps(), " ");
  const std::string tail =
      absl::StrFormat(" loss %.3f | %.0f tokens/s | %s left", step.loss(), step.tokens_per_second(),
                      HumanSeconds(Seconds(step.remaining())));
  const int room = width - static_cast<int>(head.size() + tail.size()) - 3;
  return absl::StrCat(head, room >= 8 ? Bar(step.step(), step.num_steps(), std::min(room, 40)) : "",
                      tail);
}

void Progress::Show(absl::string_view line, absl::Time now, bool force) {
  if (terminal_) {
    absl::FPrintF(stderr, "\r\x1b[2K%s", line);
    std::fflush(stderr);
    drawn_ = true;
    return;
  }
  if (last_ == absl::InfinitePast()) last_ = now;  // What is done within 10 s needs no line.
  if (!force && now - last_ < kPlainInterval) return;
  last_ = now;
  absl::FPrintF(stderr, "%s\n", line);
}

void Progress::Note(absl::string_view line) {
  Clear();
  absl::FPrintF(stderr, "%s\n", line);
}

void Progress::Clear() {
  if (drawn_) absl::FPrintF(stderr, "\r\x1b[2K");
  drawn_ = false;
}

}  // namespace lathe::cli
