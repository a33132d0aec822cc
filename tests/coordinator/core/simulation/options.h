#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace lathe::simulation {

// What a history is made of. Chances are per occasion.
struct SimOptions {
  int workers = 3;
  int max_slots = 2;  // Of a worker, at least 1.
  int jobs = 8;
  int max_ranks = 3;
  int quota = 1 << 20;      // Slots that all jobs together may hold, at least max_ranks.
  int64_t events = 200;     // With faults; then they stop and every job must end.
  int64_t check_every = 1;  // Events between looks at all that is promised.
  absl::Duration fault_interval = absl::Seconds(6);   // Mean.
  absl::Duration submit_interval = absl::Seconds(4);  // Mean.
  double crash_at_commit = 0.01;  // Before it, after it, or while its effects go out.
  double late_message = 0.05;
  double process_fails = 0.05;
  double process_hangs = 0.01;  // Does not end when it is told to.
  double damaged_checkpoint = 0.05;
};

// What a history had in it, to see that the faults happened.
struct SimStats {
  int64_t events = 0;
  int64_t commits = 0;
  int64_t crashes_before_commit = 0;
  int64_t crashes_after_commit = 0;
  int64_t crashes_while_publishing = 0;
  int64_t crashes_between = 0;
  int64_t broken_links = 0;
  int64_t lost_messages = 0;
  int64_t repeated_updates = 0;
  int64_t late_after_register = 0;  // Messages of a link whose worker has a newer one.
  int64_t fenced = 0;               // Updates that counted for nothing.
  int64_t worker_deaths = 0;
  int64_t drains = 0;
  int64_t lost_workers = 0;  // By their lease.
  int64_t checkpoints = 0;
  int64_t unusable_checkpoints = 0;
  int64_t pauses = 0;
  int64_t cancels = 0;
  int64_t succeeded = 0;
  int64_t failed = 0;
  int64_t cancelled = 0;

  void Add(const SimStats& other);
};

}  // namespace lathe::simulation
