#pragma once

#include "coordinator/service/coordinator.h"
#include "lathe/v1/fleet.grpc.pb.h"

namespace lathe {

// lathe.v1.FleetService. Thread-safe; the coordinator outlives the server.
class FleetServiceImpl final : public v1::FleetService::Service {
 public:
  explicit FleetServiceImpl(Coordinator& coordinator) : coordinator_(coordinator) {}

  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest* request,
                           v1::ListWorkersResponse* response) override;

 private:
  Coordinator& coordinator_;
};

}  // namespace lathe
