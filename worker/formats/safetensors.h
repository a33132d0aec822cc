#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/pending_file.h"
#include "worker/formats/dtype.h"

// huggingface/safetensors, README.md "Format". Header at most 16 MiB, 65,536 tensors of at most 8
// dimensions; no hole, no overlap, no duplicate. The types of dtype.h; others are refused by name.

namespace lathe {

struct TensorView {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  // Of the mapping, or of the caller when writing. Aligned only if the file is: ours start at a
  // multiple of 64.
  absl::string_view bytes;
};

// A mapped file. Immutable; safe from several threads. Views live as long as the object.
class SafetensorsFile {
 public:
  // InvalidArgument: "model.safetensors: tensor 'x' ...". NotFound.
  static absl::StatusOr<SafetensorsFile> Open(const std::filesystem::path& path);
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile();

  const std::vector<TensorView>& tensors() const;        // In the order of their bytes.
  const TensorView* Find(absl::string_view name) const;  // Null if there is none.
  const std::map<std::string, std::string>& metadata() const;

 private:
  struct State;
  explicit SafetensorsFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// What a tensor will be, before its bytes are there.
struct TensorSpec {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
};

// Writes a file of any size without holding it: declare all tensors, append their bytes in that
// order in pieces of any size, finish. Until Finish returns OK `path` is as it was (PendingFile).
// Thread-compatible.
class SafetensorsWriter {
 public:
  static absl::StatusOr<SafetensorsWriter> Create(const std::filesystem::path& path,
                                                  const std::vector<TensorSpec>& tensors);
  // InvalidArgument: more bytes than declared.
  absl::Status Append(absl::string_view bytes);
  // fsyncs and renames. InvalidArgument: fewer bytes than declared.
  absl::Status Finish();

 private:
  SafetensorsWriter(PendingFile file, uint64_t num_bytes_left)
      : file_(std::move(file)), num_bytes_left_(num_bytes_left) {}

  PendingFile file_;
  uint64_t num_bytes_left_ = 0;
};

// Of the file that WriteSafetensors makes of the tensors, without making it.
absl::StatusOr<std::string> Sha256OfSafetensors(const std::vector<TensorView>& tensors);

// Atomically, in the given order, data 64-byte aligned, with metadata {"format":"pt"}.
absl::Status WriteSafetensors(const std::filesystem::path& path,
                              const std::vector<TensorView>& tensors);

}  // namespace lathe
