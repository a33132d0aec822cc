#include "coordinator/service/fleet_service.h"

#include "coordinator/service/convert.h"

namespace lathe {
namespace {

const char* StateName(const Worker& worker) {
  switch (worker.state) {
    case WorkerState::kAlive:
      return worker.draining ? "draining" : "alive";
    case WorkerState::kLost:
      return "lost";
    case WorkerState::kLeft:
      return "left";
  }
  return "";
}

}  // namespace

grpc::Status FleetServiceImpl::ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*,
                                           v1::ListWorkersResponse* response) {
  for (const Coordinator::WorkerSnapshot& snapshot : coordinator_.Workers()) {
    const Worker& worker = snapshot.worker;
    v1::Worker* proto = response->add_workers();
    proto->set_id(worker.info.id.value());
    proto->set_name(worker.info.name);
    proto->set_state(StateName(worker));
    proto->set_slot_kind(worker.info.slot_kind);
    proto->set_slots(worker.info.slots);
    proto->set_free_slots(worker.state == WorkerState::kAlive ? worker.FreeSlots() : 0);
    *proto->mutable_last_seen_time() = ToProto(worker.last_seen);
    proto->set_build(worker.info.build);
    for (const std::string& text : snapshot.assignments) proto->add_assignments(text);
    proto->set_metrics_address(worker.info.metrics_address);
  }
  return grpc::Status::OK;
}

}  // namespace lathe
