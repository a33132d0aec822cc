#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace lathe::testing {

struct ListeningSocket {
  std::string address;  // As the kernel prints it: "0100007F" is 127.0.0.1.
  int port = 0;
  bool loopback = false;
};

// The TCP sockets (v4 and v6) on which process `pid` listens, from the kernel's table.
std::vector<ListeningSocket> ListeningSockets(pid_t pid);

// Those of them that are not bound to loopback: must be empty.
std::vector<std::string> ListeningOffLoopback(pid_t pid);

}  // namespace lathe::testing
