#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Lathe speaks without encryption, so it speaks only to its own machine.

namespace lathe {

struct HostPort {
  std::string host;  // Without the brackets of an IPv6 address.
  int port = 0;      // [0, 65535]; 0: any free port, for a server.
};

// "127.0.0.1:7070", "[::1]:7070", "localhost:7070". InvalidArgument says what is wrong.
absl::StatusOr<HostPort> ParseHostPort(absl::string_view address);

// 127.0.0.0/8 in dotted form, ::1, localhost. No name is looked up.
bool IsLoopbackHost(absl::string_view host);

// InvalidArgument unless `address` is HOST:PORT on loopback.
absl::Status ValidateLoopback(absl::string_view address);

}  // namespace lathe
