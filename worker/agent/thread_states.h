#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace lathe::agent {

// What each thread of a process waits for, from the kernel's tables: "thread 12 lathe-trainer: S
// (sleeping) in futex_wait_queue". Without threads that have ended; at most 64.
std::vector<std::string> DescribeThreads(pid_t pid);

}  // namespace lathe::agent
