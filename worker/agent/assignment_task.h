#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lathe/internal/v1/agent.pb.h"
#include "worker/agent/agent_options.h"

// What follows from an Assignment without doing anything: pure functions.

namespace lathe::agent {

namespace pb = ::lathe::internal::v1;

// The child's descriptor of the rendezvous socket: behind the channel (3).
inline constexpr int kRendezvousFd = 4;

// Where an assignment lives on this worker.
struct AssignmentFolders {
  std::filesystem::path root;
  std::filesystem::path input(const std::string& name) const { return root / "in" / name; }
  std::filesystem::path adapters() const { return root / "in" / "adapters"; }
  std::filesystem::path output() const { return root / "out"; }
  std::filesystem::path checkpoints() const { return root / "checkpoints"; }
  std::filesystem::path work() const { return root / "work"; }
};

// InvalidArgument: an id that is not a name, slots outside [0, options.slots], no task, a missing
// or unknown input, a bad tree, a rank outside the world.
absl::Status ValidateAssignment(const pb::Assignment& assignment, const AgentOptions& options);

// "import", "check", "preview", "prepare", "train" or "serve".
std::string TaskKind(const pb::Task& task);

// "lathe-trainer" for train and serve, else "lathe-prepare".
std::string ProgramOf(const pb::Task& task);

// "train rank 1 on worker-2", "prepare on worker-2": the source of its log lines and errors.
std::string SourceLabel(const pb::Task& task, const std::string& worker_name);

// Input of a training: the checkpoint to go on from.
inline constexpr char kResumeInput[] = "resume";

// Rank 0 of a training: its agent binds the rendezvous socket.
bool OwnsRendezvous(const pb::Task& task);
// A rank of a training: takes a Rendezvous message.
bool IsTrain(const pb::Task& task);
bool IsServe(const pb::Task& task);

// The task with its paths, threads and rendezvous_fd. REQUIRES: a valid assignment.
pb::Task FillTask(const pb::Assignment& assignment, const AssignmentFolders& folders,
                  const AgentOptions& options);

// The whole environment of the child, which sees these GPUs of the machine and no other.
std::vector<std::string> ChildEnvironment(const pb::Task& filled, const AssignmentFolders& folders,
                                          const AgentOptions& options,
                                          const std::vector<int>& gpus);

}  // namespace lathe::agent
