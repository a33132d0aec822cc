#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "common/base/file.h"

namespace lathe::testing {

// A program that a test runs; killed and reaped with the object. One thread.
class Subprocess {
 public:
  // `argv[0]` is a path. Standard output and error come through one pipe. `fd_3` becomes its
  // descriptor 3, `fd_4` its descriptor 4; -1: none.
  explicit Subprocess(const std::vector<std::string>& argv, int fd_3 = -1, int fd_4 = -1);
  ~Subprocess();
  Subprocess(const Subprocess&) = delete;
  Subprocess& operator=(const Subprocess&) = delete;

  pid_t pid() const { return pid_; }
  // Reads until a line with `text` has come; false at the end of the output.
  bool ReadUntil(const std::string& text);
  // Reads to the end and reaps: waitpid's status.
  int Wait();
  // All that was read so far.
  const std::string& output() const { return output_; }
  // Its child processes.
  std::vector<pid_t> Children() const;

 private:
  bool ReadMore();

  pid_t pid_ = -1;
  bool reaped_ = false;
  UniqueFd out_;
  std::string output_;
};

// $LATHE_BIN_DIR/NAME.
std::string Program(const std::string& name);

}  // namespace lathe::testing
