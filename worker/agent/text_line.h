#pragma once

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace lathe::agent {

// `text` as one line of valid UTF-8: invalid bytes and control characters (a terminal would obey
// them) become U+FFFD, tabs stay.
std::string CleanLine(absl::string_view text);

// Cuts a stream of bytes into clean lines. A line ends with '\n' or '\r' (progress bars); one of
// more than 8 KiB is handed on in pieces. Empty lines are left out. Thread-compatible.
class LineSplitter {
 public:
  static constexpr size_t kMaxLineBytes = 8 << 10;
  using Consumer = absl::FunctionRef<void(std::string)>;
  void Add(absl::string_view bytes, Consumer consume);
  // What is left without a line end.
  void Finish(Consumer consume);

 private:
  std::string rest_;
};

}  // namespace lathe::agent
