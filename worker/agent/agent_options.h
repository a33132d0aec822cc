#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace lathe::agent {

// What an agent offers and how patient it is. Constant while it runs.
struct AgentOptions {
  // For people; unique among the workers of a coordinator. A name by ValidateName
  // (common/base/id.h).
  std::string name;
  std::string build;
  // Child processes that may compute at the same time. In [1, 1024].
  int slots = 1;
  // Of the machine, one per slot; empty: its slots are cores, and its children see no GPU.
  std::vector<int> gpus;
  // OMP_NUM_THREADS of a child is this times the slots it takes. In [1, 1024].
  int threads_per_slot = 1;
  int64_t memory_bytes = 0;     // Of the machine; 0: unknown.
  std::string metrics_address;  // 127.0.0.1:PORT, or empty.

  // Holds lathe-trainer and lathe-prepare.
  std::filesystem::path program_folder;
  // All that a child sees of the environment, "NAME=value", besides TMPDIR and the thread counts.
  std::vector<std::string> base_environment;

  // Least recently used blobs go when the cache is over this. Running assignments keep theirs.
  int64_t max_cache_bytes = int64_t{100} << 30;

  // From the Cancel message to SIGKILL.
  absl::Duration cancel_grace = absl::Seconds(3);
  // From a child's result (or its closed channel) to SIGKILL if it does not exit.
  absl::Duration exit_grace = absl::Seconds(10);
  // Without a coordinator for so long, the children are stopped. Until Registered says another.
  absl::Duration orphan_timeout = absl::Minutes(15);
  // From Connect to Registered.
  absl::Duration handshake_timeout = absl::Seconds(10);
  // Between two attempts to connect, doubled each time, with jitter of a half.
  absl::Duration min_backoff = absl::Milliseconds(200);
  absl::Duration max_backoff = absl::Seconds(2);
  // How long a stop waits for trainings to end with a checkpoint. They are ended then.
  absl::Duration drain_timeout = absl::Seconds(20);
  // How long a stop waits until the last updates are written.
  absl::Duration flush_timeout = absl::Seconds(2);

  absl::Status Validate() const;
};

}  // namespace lathe::agent
