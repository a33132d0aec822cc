#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace lathe {

// Ends a stream of text before the first stop string, wherever the pieces are cut. Holds back only
// what could still become one. Thread-compatible.
class StopStrings {
 public:
  // Empty strings are ignored.
  explicit StopStrings(std::vector<std::string> stops);

  // Text that is certain to come before any stop string. Empty once found() is true.
  std::string Push(absl::string_view text);
  // What was held back when the stream ends.
  std::string Finish();
  bool found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

}  // namespace lathe
