#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// What a checkpoint says of itself: manifest.json beside its bytes.

namespace lathe {

// What the first micro-batch after a checkpoint gave. A run that goes on from it computes that
// micro-batch first and must get the same bits.
struct ResumeProof {
  uint64_t loss_bits = 0;       // Of the loss sum, a 64-bit float.
  std::string gradient_sha256;  // Of the flat gradients of that micro-batch alone.
  friend bool operator==(const ResumeProof&, const ResumeProof&) = default;
};

// Where a trained tensor lies in the flat ones, which are in the order of the result's file.
struct TensorSlice {
  std::string name;
  std::vector<int64_t> shape;
  int64_t begin = 0;
  friend bool operator==(const TensorSlice&, const TensorSlice&) = default;
};

struct CheckpointFile {
  std::string name;  // Without folders.
  int64_t size = 0;
  std::string sha256;
  friend bool operator==(const CheckpointFile&, const CheckpointFile&) = default;
};

struct CheckpointManifest {
  int64_t step =
      0;  // Optimizer steps that are done. The schedule and the randomness follow from it.
  int64_t attempt = 0;  // Of the job that wrote it.
  // Hash over (epoch, row) of every row so far, in their order: trainer.h.
  uint64_t ledger = 0;
  // What must be the same to go on: hashes of the settings, of the rows, ...
  std::map<std::string, std::string> context;
  // What the bits depend on beside that: instruction set, threads, build.
  std::string machine;
  ResumeProof proof;
  std::vector<TensorSlice> slices;
  std::vector<CheckpointFile> files;
  friend bool operator==(const CheckpointManifest&, const CheckpointManifest&) = default;
};

// Two lines: JSON, and the sha256 of that line. Whole numbers of 64 bits are hexadecimal.
std::string ManifestToText(const CheckpointManifest& manifest);
// DataLoss: not as ManifestToText() wrote it; any changed byte is noticed.
absl::StatusOr<CheckpointManifest> ParseManifest(absl::string_view text);

// FailedPrecondition: "rows differ: the checkpoint has ..., this training ...".
absl::Status CheckContext(const CheckpointManifest& manifest,
                          const std::map<std::string, std::string>& context);

}  // namespace lathe
