#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// Fault points: named places where a test can make this process fail, to show that what follows is
// what docs/guarantees.md promises. tests/chaos/points.py lists them all.
//
// The programs that people run hold fault_off.cc, for which every point is Ok and the environment
// is not read. The programs in bin/chaos are the same objects linked with armed.cc, which obeys
//
//   LATHE_FAULT=POINT:ACTION[=VALUE][@HIT]   HIT: the how-many-eth pass in one process; 1.
//   LATHE_FAULT_DIR=FOLDER                   nothing happens before FOLDER/armed exists; who fires
//                                            creates FOLDER/fired and is the only one.
//   ACTION  kill          SIGKILL to this process
//           stop          SIGSTOP; somebody else lets it go on
//           delay=MS      sleeps
//           error[=CODE]  returns an error, Internal unless CODE (a number of absl::StatusCode)
//           nospace       returns ResourceExhausted, as a full disk does

namespace lathe::fault {

// What the point's place must return if it is not Ok. Thread-safe.
absl::Status Hit(absl::string_view point);

// At places that cannot fail: actions that return an error change nothing there.
inline void Pass(absl::string_view point) { Hit(point).IgnoreError(); }

// "NAME=value" of what a child process must be given to obey as well; empty unless armed.
std::vector<std::string> Environment();

}  // namespace lathe::fault
