#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lathe/v1/jobs.pb.h"

namespace lathe::cli {

// "step 12/81 [====>     ] loss 2.131 | 96 tokens/s | 2:41 left", at most `width` columns. Pure.
std::string ProgressLine(const v1::StepStats& step, int width);

// Shows a changing line: redrawn in place on a terminal, else a plain line every 10 s.
// Thread-compatible.
class Progress {
 public:
  explicit Progress(bool terminal) : terminal_(terminal) {}
  ~Progress() { Clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `force`: print even if the last plain line was less than 10 s ago.
  void Show(absl::string_view line, absl::Time now, bool force = false);
  // Prints a line that stays.
  void Note(absl::string_view line);
  void Clear();

 private:
  const bool terminal_;
  bool drawn_ = false;
  absl::Time last_ = absl::InfinitePast();
};

}  // namespace lathe::cli
