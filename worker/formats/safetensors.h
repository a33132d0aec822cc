#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/formats/dtype.h"

// huggingface/safetensors, README.md "Format". Header at most 16 MiB and 65,536 tensors; no hole,
// no overlap, no duplicate.

namespace lathe {

struct TensorView {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  absl::string_view bytes;  // Of the mapping, or of the caller when writing.
};

// A mapped file. Immutable; safe from several threads. Views live as long as the object.
class SafetensorsFile {
 public:
  // InvalidArgument: "model.safetensors: tensor 'x' ...". NotFound.
  static absl::StatusOr<SafetensorsFile> Open(const std::filesystem::path& path);
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile();

  const std::vector<TensorView>& tensors() const;        // In file order.
  const TensorView* Find(absl::string_view name) const;  // Null if there is none.
  const std::map<std::string, std::string>& metadata() const;

 private:
  struct State;
  explicit SafetensorsFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Atomically, in the given order, data 64-byte aligned, with metadata {"format":"pt"}.
absl::Status WriteSafetensors(const std::filesystem::path& path,
                              const std::vector<TensorView>& tensors);

}  // namespace lathe
