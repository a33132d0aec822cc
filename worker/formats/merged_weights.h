#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/formats/peft.h"
#include "worker/formats/safetensors.h"

// Base and adapter as one set of weights, read row by row. Only for .cc files of this folder.
// O output width, I input width, r rank.

namespace lathe {

// The parts of one layer's update; null where the file has none.
struct UpdateParts {
  const TensorView* a = nullptr;          // [r, I]
  const TensorView* b = nullptr;          // [O, r]
  const TensorView* magnitude = nullptr;  // [O]
};

// Mapped files, checked: every update fits a weight of the base. Immutable.
class MergedWeights {
 public:
  // `base_dir` is a canonical folder, `adapter_dir` a PEFT folder, or empty for the base alone.
  // InvalidArgument: a tensor that does not fit, or is not F32, F16 or BF16.
  static absl::StatusOr<MergedWeights> Open(const std::filesystem::path& base_dir,
                                            const std::filesystem::path& adapter_dir);

  // Those of the base: names and shapes of the merged tensors.
  const SafetensorsFile& base() const { return base_; }
  const UpdateParts* FindUpdate(const std::string& name) const;
  double scale() const { return config_.Scale(); }

 private:
  MergedWeights(SafetensorsFile base, std::optional<SafetensorsFile> adapter, AdapterConfig config,
                std::map<std::string, UpdateParts> updates);

  SafetensorsFile base_;
  std::optional<SafetensorsFile> adapter_;
  AdapterConfig config_;
  std::map<std::string, UpdateParts> updates_;  // By the name of the base's weight.
};

// One tensor of them: W + s B A where it has an update, and with DoRA every row of that scaled to
// its magnitude, in 32-bit floats. Holds the update in memory. Source: peft:src/peft/tuners/lora,
// Linear.merge and DoraLinearVariant.merge_safe. Thread-compatible; `weights` and `tensor`, which
// is one of its base's, must outlive it.
class MergedTensor {
 public:
  MergedTensor(const MergedWeights& weights, const TensorView& tensor);

  size_t num_rows() const { return num_rows_; }  // A tensor of one dimension is one row.
  // `row` becomes row `index`. InvalidArgument: a value of it is not finite.
  absl::Status Read(size_t index, std::vector<float>& row);

 private:
  void Merge(size_t index, std::vector<float>& row);

  const TensorView& tensor_;
  const bool updated_;
  const std::vector<float> a_, b_, magnitude_;  // Empty without an update.
  const float scale_;
  const size_t num_rows_;
  const size_t width_;
  std::vector<float> delta_;
};

// For a row that the type of the output cannot hold.
absl::Status TooLargeError(absl::string_view tensor, size_t row, absl::string_view type);

}  // namespace lathe
