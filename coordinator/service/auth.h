#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/metrics/metrics.h"
#include "common/rpc/token.h"
#include "grpcpp/security/server_credentials.h"

namespace lathe {

struct Tokens {
  Token client;   // Public services, reflection, health.
  Token worker;   // lathe.internal.*.
  Token metrics;  // Password of /metrics.
};

// Reads client.token, worker.token and metrics.token in `folder`; makes those that are missing
// (mode 0600).
absl::StatusOr<Tokens> LoadOrCreateTokens(const std::filesystem::path& folder);

// The one place where a call is let in: every method of every service, also of reflection and
// health, known or not, needs its token before anything else happens. Connections are local and not
// encrypted. `refused`: counts by method, like handled calls.
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const Tokens& tokens,
                                                               const std::filesystem::path& folder,
                                                               Metric refused);

}  // namespace lathe
