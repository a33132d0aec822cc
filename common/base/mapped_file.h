#pragma once

#include <filesystem>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lathe {

// A regular file mapped read-only. Movable; the mapping does not move. Safe from several threads.
// A file that becomes shorter while it is mapped, or whose disk fails, ends the process with
// SIGBUS where the missing bytes are read: see ExplainLostMappings.
class MappedFile {
 public:
  // NotFound, PermissionDenied; InvalidArgument: no regular file. A symbolic link is followed.
  static absl::StatusOr<MappedFile> Open(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();

  absl::string_view bytes() const { return bytes_; }

 private:
  explicit MappedFile(absl::string_view bytes) : bytes_(bytes) {}
  absl::string_view bytes_;
};

// Tells the kernel that these bytes of a mapping are not needed soon: their pages leave this
// process's memory, and a later read brings them back.
void ReleasePages(absl::string_view mapped);

// From here on SIGBUS first writes one line that names the mapped file, "PROGRAM: PATH: became
// shorter or cannot be read ...", to stderr. The process still ends by the signal, which is the
// machine's fault to whoever started it (exit_codes.h). For the mains of programs that map files.
void ExplainLostMappings();

}  // namespace lathe
