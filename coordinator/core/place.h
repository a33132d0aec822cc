#pragma once

#include <limits>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/id.h"

// Where a gang runs. Pure: no clock, no state.

namespace lathe {

// Processes of one role that start and end together.
struct Group {
  std::string role = {};  // "prepare", "train".
  int ranks = 1;
  int slots_per_rank = 1;
  // Work without tensors: takes no slot on a worker whose slots are GPUs.
  bool cpu_work = false;
  bool on_gpu = false;  // Computes on GPUs: takes no other slots.
};

struct Gang {
  std::vector<Group> groups;
};

// What Place() needs to know of a worker.
struct WorkerView {
  WorkerId id = {};
  std::string name = {};
  std::string slot_kind = {};  // "cpu" or "cuda".
  int slots = 0;
  int free_slots = 0;
  bool connected = false;  // And takes work.
  absl::Time last_seen = absl::InfinitePast();
};

// What a project may still take.
struct Quota {
  std::string project = {};
  int limit = std::numeric_limits<int>::max();  // Slots that its jobs may hold at a time.
  int held = 0;                                 // Slots that they hold.
};

struct PlaceOptions {
  // A worker that was silent for longer gets nothing new.
  absl::Duration lease = absl::Seconds(15);
  // Workers that failed this gang before: taken only where the others could not hold it.
  std::set<WorkerId> avoid = {};
  Quota quota = {};
};

struct Placement {
  std::vector<WorkerId> workers;  // By rank, group after group.
};

struct Decision {
  std::optional<Placement> placement;
  std::string reason;  // "waits: 2 cpu slots free on 2 workers, needs 4".
  // The present workers could hold the gang if nothing else ran: it is worth to keep the slots of
  // those behind it in the queue.
  bool fits_when_idle = false;
};

// Spreads the ranks: each goes to the worker with most free slots, ties by name. All ranks get
// slots of one kind: GPUs if one of them computes there; else cores, or GPUs where nobody offers
// cores.
Decision Place(const Gang& gang, std::span<const WorkerView> workers, absl::Time now,
               const PlaceOptions& options);

// The same for a gang of one group that may have fewer ranks, down to `min_ranks` (0: it may not):
// as many as fit now. Sets the ranks of `gang` to those that are placed.
Decision PlaceElastic(Gang& gang, int min_ranks, std::span<const WorkerView> workers,
                      absl::Time now, const PlaceOptions& options);

}  // namespace lathe
