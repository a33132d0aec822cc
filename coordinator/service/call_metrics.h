#pragma once

#include <memory>

#include "common/base/clock.h"
#include "coordinator/service/probe.h"
#include "grpcpp/support/server_interceptor.h"

namespace lathe {

// Counts and times every call that reaches a handler. `probe` outlives the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallMetrics(
    Probe& probe, const Clock& clock);

}  // namespace lathe
