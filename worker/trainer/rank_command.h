#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/status.h"

namespace lathe {

// `lathe-trainer rank`: one rank of `lathe-trainer run`, which starts it. Not for people.
struct RankCommand {
  std::filesystem::path job_file;  // Resolved job; model and dataset are placeholders.
  std::string base_model;          // Named in adapter_config.json.
  std::filesystem::path model_dir;
  std::filesystem::path shard_dir;
  std::filesystem::path output_dir;
  std::filesystem::path parent_dir;  // TrainTask.
  int rank = 0;
  int world_size = 1;
  std::string host = "127.0.0.1";  // Of rank 0.
  std::string own_host;            // Of this rank's interface; empty: `host`.
  int port = 0;
  int listen_fd = -1;  // Of rank 0: bound to host:port.
  int64_t attempt = 1;
  int threads = 1;
};

absl::Status RunRankCommand(const RankCommand& command);

}  // namespace lathe
