#include "tests/coordinator/core/simulation/gangs.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace lathe::simulation {

Ended Gangs::Failure(EndCause cause, absl::string_view why) {
  const bool cancelled = cause == EndCause::kCancelled;
  return {.cause = cause,
          .code = static_cast<int>(cancelled ? absl::StatusCode::kCancelled
                                             : absl::StatusCode::kInternal),
          .message = std::string(why)};
}

void Gangs::Join(const Assignment& assignment, int64_t resume_step, bool usable,
                 std::weak_ptr<Member> member) {
  const Key key = {assignment.owner, assignment.attempt};
  Gang& gang = gangs_[key];
  gang.world_size = assignment.world_size;
  if (gang.over) {
    time_.After(absl::Milliseconds(100), [member] {
      const auto alive = member.lock();
      if (alive) alive->OnEnd(Failure(EndCause::kPeerLost, "nobody answers"));
    });
    return;
  }
  gang.ranks[assignment.rank] = std::move(member);
  gang.step = gang.resumed = resume_step;
  gang.usable = usable;
  if (static_cast<int>(gang.ranks.size()) < gang.world_size) return;
  gang.num_steps = resume_step + 1 + time_.Below(8);
  time_.After(time_.Between(absl::Milliseconds(100), absl::Seconds(2)), [this, key] { Step(key); });
}

void Gangs::Pause(const Assignment& assignment) {
  gangs_[{assignment.owner, assignment.attempt}].pause = true;
}

void Gangs::Step(const Key& key) {
  const auto found = gangs_.find(key);
  if (found == gangs_.end() || found->second.over) return;
  Gang& gang = found->second;
  if (!gang.usable) {
    return End(gang, [&](int rank) {
      return Failure(rank == 0 ? EndCause::kCheckpoint : EndCause::kPeerLost,
                     "checkpoint: damaged");
    });
  }
  ++gang.step;
  const bool last = gang.step >= gang.num_steps;
  if (gang.pause || (!last && time_.Chance(0.5))) {
    if (const auto rank0 = gang.ranks.at(0).lock()) rank0->OnCheckpoint(gang.step);
  }
  if (last) return End(gang, [&](int rank) { return Done(gang, rank); });
  if (gang.pause) {
    return End(gang, [](int) { return Failure(EndCause::kCancelled, "stopped at a step"); });
  }
  time_.After(time_.Between(absl::Milliseconds(500), absl::Seconds(3)), [this, key] { Step(key); });
}

void Gangs::End(Gang& gang, const std::function<Ended(int)>& how) {
  gang.over = true;
  for (const auto& [rank, member] : gang.ranks) {
    time_.After(time_.Between(absl::ZeroDuration(), absl::Milliseconds(300)),
                [member = member, ended = how(rank)] {
                  if (const auto alive = member.lock()) alive->OnEnd(ended);
                });
  }
}

Ended Gangs::Done(const Gang& gang, int rank) const {
  Ended ended{.ok = true, .adapter_sha256 = "same", .trained_parameters = 12};
  if (rank != 0) return ended;
  ended.outputs = {{"adapter_model.safetensors", {"bb", 2}}};
  ended.parity = Parity{.greedy_agreement = 1, .positions = 16};
  ended.resumed_step = gang.resumed;
  ended.ledger = "00000000000000ff";
  return ended;
}

void Gangs::Leave(const Assignment& assignment) {
  const auto found = gangs_.find({assignment.owner, assignment.attempt});
  if (found == gangs_.end()) return;
  Gang& gang = found->second;
  gang.ranks[assignment.rank].reset();
  if (gang.over) return;
  // The others see the connection to it close.
  End(gang, [](int) { return Failure(EndCause::kPeerLost, "a peer is gone"); });
}

}  // namespace lathe::simulation
