#pragma once

#include <string>

namespace lathe::testing {

// GET /metrics from 127.0.0.1:port by hand; the whole answer, headers included. `credentials`:
// "user:password" for basic auth, or "".
std::string GetMetrics(int port, const std::string& credentials);

}  // namespace lathe::testing
