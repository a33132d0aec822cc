#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/base/file.h"

namespace lathe {

// Ends the process with `what` unless `holds`: the fuzzer keeps the input.
void Require(bool holds, absl::string_view what);
// An error must be one line that a person can read: no control characters, of a bounded length.
void RequireGoodError(const absl::Status& status);

// The input as a file that lies in memory only.
class InputFile {
 public:
  explicit InputFile(absl::string_view bytes);
  std::filesystem::path path() const;

 private:
  UniqueFd fd_;
};

// A folder that all inputs of this process share; written in place, without fsync.
class InputFolder {
 public:
  InputFolder();
  void Write(absl::string_view name, absl::string_view bytes) const;
  const std::filesystem::path& path() const { return folder_.path(); }

 private:
  TempFolder folder_;
};

// The parts between NULs, at least `count` of them; missing ones are empty.
std::vector<absl::string_view> SplitParts(absl::string_view input, size_t count);

}  // namespace lathe
