#include "coordinator/core/fleet.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace lathe {

constexpr size_t kMaxWorkers = 1000;
constexpr int kMaxSlots = 1024;

absl::Status Validate(const WorkerInfo& info) {
  LATHE_RETURN_IF_ERROR(ValidateName("worker_id", info.id.value()));
  LATHE_RETURN_IF_ERROR(ValidateName("name of worker", info.name));
  if (info.slot_kind != "cpu" && info.slot_kind != "cuda") {
    return absl::InvalidArgumentError(
        absl::StrCat("slot_kind is '", info.slot_kind.substr(0, 80), "'; must be cpu or cuda"));
  }
  if (info.slots < 0 || info.slots > kMaxSlots) {
    return absl::InvalidArgumentError(
        absl::StrCat("slots is ", info.slots, "; must be in [0, ", kMaxSlots, "]"));
  }
  if (info.build.size() > 256 || info.metrics_address.size() > 256) {
    return absl::InvalidArgumentError("build or metrics_address is longer than 256 characters");
  }
  return absl::OkStatus();
}

int Worker::FreeSlots() const {
  int free = info.slots;
  for (const auto& [id, slots] : held) free -= slots;
  return std::max(free, 0);
}

absl::Status Fleet::Register(const WorkerInfo& info, SessionId session, absl::Time now) {
  LATHE_RETURN_IF_ERROR(Validate(info));
  for (const auto& [id, worker] : workers_) {
    if (id != info.id && worker.info.name == info.name && worker.state == WorkerState::kAlive) {
      return absl::AlreadyExistsError(absl::StrCat("name of worker is '", info.name,
                                                   "'; a live worker has it; names are unique"));
    }
  }
  if (!workers_.contains(info.id) && workers_.size() >= kMaxWorkers) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", workers_.size(), " workers; at most ", kMaxWorkers));
  }
  Worker& worker = workers_[info.id];
  worker.info = info;
  worker.state = WorkerState::kAlive;
  worker.session = session;
  worker.last_seen = now;
  worker.draining = false;
  return absl::OkStatus();
}

void Fleet::Expect(const WorkerId& id, const std::string& name, absl::Time deadline) {
  Worker& worker = workers_[id];
  worker.info.id = id;
  worker.info.name = name;
  worker.last_seen = deadline - lease_;
}

bool Fleet::Renew(const WorkerId& id, SessionId session, absl::Time now) {
  Worker* worker = Find(id);
  // One that was declared lost has to register again: its work was given to others.
  if (worker == nullptr || worker->session != session || worker->state != WorkerState::kAlive) {
    return false;
  }
  worker->last_seen = now;
  return true;
}

void Fleet::Disconnect(const WorkerId& id, SessionId session) {
  Worker* worker = Find(id);
  if (worker != nullptr && worker->session == session) worker->session = 0;
}

void Fleet::Leave(const WorkerId& id) {
  Worker* worker = Find(id);
  if (worker == nullptr) return;
  worker->state = WorkerState::kLeft;
  worker->session = 0;
  worker->held.clear();
}

std::vector<WorkerId> Fleet::ExpireLeases(absl::Time now) {
  std::vector<WorkerId> lost;
  for (auto& [id, worker] : workers_) {
    if (worker.state != WorkerState::kAlive || now - worker.last_seen <= lease_) continue;
    worker.state = WorkerState::kLost;
    worker.session = 0;
    lost.push_back(id);
  }
  return lost;
}

void Fleet::Forget(absl::Time before) {
  std::erase_if(workers_, [&](const auto& entry) {
    return entry.second.state != WorkerState::kAlive && entry.second.last_seen < before;
  });
}

absl::Time Fleet::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, worker] : workers_) {
    // A lease holds up to its last instant.
    if (worker.state == WorkerState::kAlive) {
      next = std::min(next, worker.last_seen + lease_ + absl::Milliseconds(1));
    }
  }
  return next;
}

Worker* Fleet::Find(const WorkerId& id) {
  const auto found = workers_.find(id);
  return found == workers_.end() ? nullptr : &found->second;
}

const Worker* Fleet::Find(const WorkerId& id) const {
  const auto found = workers_.find(id);
  return found == workers_.end() ? nullptr : &found->second;
}

std::string Fleet::NameOf(const WorkerId& id) const {
  const Worker* worker = Find(id);
  return worker == nullptr ? id.value() : worker->info.name;
}

std::vector<WorkerView> Fleet::Views() const {
  std::vector<WorkerView> views;
  views.reserve(workers_.size());
  views.reserve(workers_.size());
  for (const auto& [id, worker] : workers_) {
    views.push_back({.id = id,
                     .name = worker.info.name,
                     .slot_kind = worker.info.slot_kind,
                     .slots = worker.info.slots,
                     .free_slots = worker.FreeSlots(),
                     .connected = worker.session != 0 && worker.state == WorkerState::kAlive &&
                                  !worker.draining,
                     .last_seen = worker.last_seen});
  }
  return views;
}

}  // namespace lathe
