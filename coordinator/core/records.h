#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/blob_ref.h"
#include "common/base/id.h"
#include "common/spec/job_spec.h"
#include "coordinator/core/job_state.h"

// What the coordinator remembers, as plain structs: core decides over them, the store keeps them,
// the service converts them to messages.

namespace lathe {

struct FileRef {
  std::string path = {};  // Relative, '/' between parts.
  BlobRef blob = {};
  friend bool operator==(const FileRef&, const FileRef&) = default;
};
using FileTree = std::vector<FileRef>;  // Sorted by path.

struct Evaluation {
  double loss = 0;  // Mean over held-out trained tokens, natural logarithm.
  double accuracy = 0;
  int64_t tokens = 0;
  int64_t rows = 0;
};

// What a base model's record says, as it was when a job over it was made.
struct BaseModel {
  std::string architecture = {};
  int64_t parameters = 0;
  std::string template_sha256 = {};
  FileTree files = {};
};

// The adapter that a job goes on from, as it was when the job was made.
struct ParentAdapter {
  std::string sha256 = {};  // Of adapter_model.safetensors. Empty: there is no parent.
  FileTree files = {};
};

// Where a training can go on.
struct SavedCheckpoint {
  int64_t step = 0;     // Optimizer steps that it has. 0: there is none.
  FileTree files = {};  // Empty once the job has ended.
};

// A process of the attempt that runs, and where.
struct PlacedRank {
  AssignmentId assignment;
  WorkerId worker;
  std::string worker_name = {};
  int slots = 0;
};

// Where rank 0 listens for the others.
struct RendezvousPoint {
  std::string host = {};
  int port = 0;
};

inline constexpr char kStagePrepare[] = "prepare";
inline constexpr char kStageTrain[] = "train";

struct Job {
  JobId id = {};
  std::string project = "default";
  std::string request_id = {};
  std::string request_sha256 = {};  // Of the spec as it was sent: the same request or another one.
  JobSpec spec;                     // Resolved.
  int64_t spec_version = 1;
  JobState state = JobState::kQueued;
  std::string stage = kStagePrepare;
  int64_t attempt = 1;  // Grows whenever a stage is started anew; an older one can write nothing.
  // By rank; empty: nothing is placed. A coordinator that is started again finds them there.
  std::vector<PlacedRank> gang = {};
  bool moves = false;  // The gang is ending to go on elsewhere, or with more ranks.
  std::optional<RendezvousPoint> rendezvous = {};  // Of the gang, once rank 0 has said it.
  int64_t failures = 0;  // Attempts that are tried again, by cause: max_restarts bounds them.
  std::string reason = {};
  std::string error = {};
  std::string failure_cause = {};
  absl::Time create_time = absl::UnixEpoch();
  std::optional<absl::Time> start_time;
  std::optional<absl::Time> end_time;
  int64_t last_sequence = 0;  // Of its newest event.
  // Names of the spec as they were when the job was made.
  BlobRef dataset_blob = {};
  std::string dataset_format = {};
  BaseModel base = {};
  ParentAdapter parent = {};
  std::string shard_key = {};  // What prepare makes is kept under it.
  std::optional<Evaluation> evaluation_before;
  std::optional<Evaluation> evaluation_after;
  std::string result_model = {};
  std::vector<std::string> adapter_sha256;  // By rank; of a whole model with method full.
  int64_t trained_parameters = 0;           // Of rank 0; 0 until it has trained.
  SavedCheckpoint checkpoint = {};          // The newest.
  SavedCheckpoint fallback = {};            // The one before: if the newest cannot be used.
  // Of rank 0 at the end: v1.Job.
  int64_t resumed_step = 0;
  bool resume_verified = false;
  std::string ledger = {};
};

struct JobEvent {
  int64_t sequence = 0;  // From 1, without gaps.
  absl::Time time = absl::UnixEpoch();
  JobState state = JobState::kQueued;
  std::string stage = {};
  int64_t attempt = 0;
  std::string message = {};
};

struct Dataset {
  std::string name = {};
  std::string project = "default";
  BlobRef blob = {};
  std::string label = {};   // What the client called the file; never a path.
  std::string format = {};  // "": by content, "json", "jsonl".
  absl::Time create_time = absl::UnixEpoch();
};

// How far the exported files are from the model that was trained: v1.Parity.
struct Parity {
  double max_logit_difference = 0;
  double kl = 0;
  double greedy_agreement = 0;
  int64_t positions = 0;
};

enum class ModelKind { kBase = 1, kAdapter = 2 };

struct Model {
  std::string name = {};
  std::string project = "default";
  ModelKind kind = ModelKind::kBase;
  std::string architecture = {};
  int64_t parameters = 0;
  FileTree files = {};
  std::string base_model = {};  // Of an adapter.
  // Of a model that a job made: the others are imported.
  std::string job_id = {};
  std::string method = {};        // Of the job: "sft", "qlora", "full".
  std::string parent_model = {};  // What training started from, if that was not the base alone.
  std::optional<Parity> parity = {};
  absl::Time create_time = absl::UnixEpoch();
  std::string template_sha256 = {};
};

// One training step as it was reported; the payload is opaque here.
struct StepRecord {
  int64_t cursor = 0;  // Set by the store: grows with every write.
  JobId job = {};
  int64_t step = 0;
  int64_t attempt = 0;
  std::string payload = {};
};

// A job with what happened to it: becomes one transaction.
struct JobChange {
  Job job;
  std::vector<JobEvent> events;
  std::optional<Model> model;      // A result.
  std::optional<FileTree> shards;  // To be kept under job.shard_key.
  FileTree dropped = {};           // What the job needs no more once this is stored.
};

}  // namespace lathe
