#include "worker/formats/merged_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;

using Updates = std::map<std::string, UpdateParts>;

absl::Status Fault(absl::string_view name, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("adapter_model.safetensors: tensor '", name, "' ", what));
}

absl::StatusOr<Updates> FindUpdates(const SafetensorsFile& adapter) {
  Updates updates;
  for (const TensorView& tensor : adapter.tensors()) {
    absl::string_view name = tensor.name;
    const bool known_start = absl::ConsumePrefix(&name, "base_model.model.");
    const TensorView* UpdateParts::*part =
        absl::ConsumeSuffix(&name, ".lora_A.weight")           ? &UpdateParts::a
        : absl::ConsumeSuffix(&name, ".lora_B.weight")         ? &UpdateParts::b
        : absl::ConsumeSuffix(&name, ".lora_magnitude_vector") ? &UpdateParts::magnitude
                                                               : nullptr;
    if (!known_start || part == nullptr) {
      return Fault(tensor.name,
                   "cannot be merged; allowed are base_model.model.MODULE.lora_A.weight, "
                   "lora_B.weight and lora_magnitude_vector");
    }
    updates[absl::StrCat(name, ".weight")].*part = &tensor;
  }
  return updates;
}

absl::Status CheckShape(const TensorView& tensor, const std::vector<int64_t>& shape) {
  if (tensor.shape == shape) return absl::OkStatus();
  return Fault(tensor.name, absl::StrCat("has shape [", absl::StrJoin(tensor.shape, ", "),
                                         "]; the base and adapter_config.json ask for [",
                                         absl::StrJoin(shape, ", "), "]"));
}

absl::Status CheckUpdate(const std::string& name, const UpdateParts& parts,
                         const AdapterConfig& config, const SafetensorsFile& base) {
  if (parts.a == nullptr || parts.b == nullptr || (parts.magnitude != nullptr) != config.dora) {
    return absl::InvalidArgumentError(absl::StrCat(
        "adapter_model.safetensors: the update of '", name, "' has not the tensors of ",
        config.dora ? "DoRA: lora_A, lora_B and lora_magnitude_vector" : "LoRA: lora_A, lora_B"));
  }
  const TensorView* weight = base.Find(name);
  if (weight == nullptr || weight->shape.size() != 2) {
    return Fault(parts.a->name, absl::StrCat("updates '", name, "', which the base has not"));
  }
  LATHE_RETURN_IF_ERROR(CheckShape(*parts.a, {config.rank, weight->shape[1]}));
  LATHE_RETURN_IF_ERROR(CheckShape(*parts.b, {weight->shape[0], config.rank}));
  if (!config.dora) return absl::OkStatus();
  return CheckShape(*parts.magnitude, {weight->shape[0]});
}

// Bytes may lie anywhere, so they are copied.
void ReadFloats(const TensorView& tensor, size_t begin, std::vector<float>& out) {
  const char* bytes = tensor.bytes.data() + begin * DtypeSize(tensor.dtype);
  if (tensor.dtype == Dtype::kF32) {
    std::memcpy(out.data(), bytes, out.size() * sizeof(float));
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, bytes + 2 * i, sizeof(bits));
    out[i] = tensor.dtype == Dtype::kF16 ? HalfToFloat(bits) : Bf16ToFloat(bits);
  }
}

std::vector<float> AllFloats(const TensorView* tensor) {
  if (tensor == nullptr) return {};
  std::vector<float> values(tensor->bytes.size() / DtypeSize(tensor->dtype));
  ReadFloats(*tensor, 0, values);
  return values;
}

absl::Status CheckTypes(const SafetensorsFile& file, absl::string_view name) {
  for (const TensorView& tensor : file.tensors()) {
    if (tensor.dtype == Dtype::kF32 || tensor.dtype == Dtype::kF16 || tensor.dtype == Dtype::kBf16)
      continue;
    return absl::InvalidArgumentError(absl::StrCat(name, ": tensor '", tensor.name, "' is ",
                                                   DtypeName(tensor.dtype),
                                                   "; allowed are F32, F16, BF16"));
  }
  return absl::OkStatus();
}

size_t RowsOf(const TensorView& tensor) {
  return tensor.shape.size() == 2 ? static_cast<size_t>(tensor.shape[0]) : size_t{1};
}

size_t WidthOf(const TensorView& tensor) {
  const size_t num_rows = RowsOf(tensor);
  return num_rows == 0 ? 0 : tensor.bytes.size() / DtypeSize(tensor.dtype) / num_rows;
}

const TensorView* PartOf(const UpdateParts* parts, const TensorView* UpdateParts::*part) {
  return parts == nullptr ? nullptr : parts->*part;
}

}  // namespace

MergedWeights::MergedWeights(SafetensorsFile base, std::optional<SafetensorsFile> adapter,
                             AdapterConfig config, std::map<std::string, UpdateParts> updates)
    : base_(std::move(base)),
      adapter_(std::move(adapter)),
      config_(std::move(config)),
      updates_(std::move(updates)) {}

absl::StatusOr<MergedWeights> MergedWeights::Open(const fs::path& base_dir,
                                                  const fs::path& adapter_dir) {
  LATHE_ASSIGN_OR_RETURN(SafetensorsFile base,
                         SafetensorsFile::Open(base_dir / "model.safetensors"));
  LATHE_RETURN_IF_ERROR(CheckTypes(base, "model.safetensors"));
  if (adapter_dir.empty()) return MergedWeights(std::move(base), std::nullopt, {}, {});
  LATHE_ASSIGN_OR_RETURN(const std::string text,
                         ReadFile(adapter_dir / "adapter_config.json", kMaxConfigBytes));
  LATHE_ASSIGN_OR_RETURN(AdapterConfig config, ParseAdapterConfig(text));
  LATHE_ASSIGN_OR_RETURN(SafetensorsFile adapter,
                         SafetensorsFile::Open(adapter_dir / "adapter_model.safetensors"));
  LATHE_RETURN_IF_ERROR(CheckTypes(adapter, "adapter_model.safetensors"));
  LATHE_ASSIGN_OR_RETURN(Updates updates, FindUpdates(adapter));
  for (const auto& [name, parts] : updates) {
    LATHE_RETURN_IF_ERROR(CheckUpdate(name, parts, config, base));
  }
  return MergedWeights(std::move(base), std::move(adapter), std::move(config), std::move(updates));
}

const UpdateParts* MergedWeights::FindUpdate(const std::string& name) const {
  const auto found = updates_.find(name);
  return found == updates_.end() ? nullptr : &found->second;
}

MergedTensor::MergedTensor(const MergedWeights& weights, const TensorView& tensor)
    : tensor_(tensor),
      updated_(weights.FindUpdate(tensor.name) != nullptr),
      a_(AllFloats(PartOf(weights.FindUpdate(tensor.name), &UpdateParts::a))),
      b_(AllFloats(PartOf(weights.FindUpdate(tensor.name), &UpdateParts::b))),
      magnitude_(AllFloats(PartOf(weights.FindUpdate(tensor.name), &UpdateParts::magnitude))),
      scale_(static_cast<float>(weights.scale())),
      num_rows_(RowsOf(tensor)),
      width_(WidthOf(tensor)) {}

absl::Status MergedTensor::Read(size_t index, std::vector<float>& row) {
  row.resize(width_);
  ReadFloats(tensor_, index * width_, row);
  if (updated_ && width_ > 0) Merge(index, row);
  if (std::all_of(row.begin(), row.end(), [](float x) { return std::isfinite(x); })) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "'", tensor_.name, "', merged, has a value in row ", index, " that is not finite"));
}

// row [I] of W becomes that of W'.
void MergedTensor::Merge(size_t index, std::vector<float>& row) {
  const size_t rank = a_.size() / width_;
  delta_.assign(row.size(), 0.0F);
  for (size_t k = 0; k < rank; ++k) {
    const float factor = b_[index * rank + k];
    const float* a = a_.data() + k * row.size();
    for (size_t i = 0; i < row.size(); ++i) delta_[i] += factor * a[i];
  }
  for (size_t i = 0; i < row.size(); ++i) row[i] += delta_[i] * scale_;
  if (magnitude_.empty()) return;
  double squares = 0;
  for (const float value : row) squares += static_cast<double>(value) * value;
  const float gain = magnitude_[index] / static_cast<float>(std::sqrt(squares));
  for (float& value : row) value *= gain;
}

absl::Status TooLargeError(absl::string_view tensor, size_t row, absl::string_view type) {
  return absl::InvalidArgumentError(absl::StrCat("'", tensor, "', merged, has a value in row ", row,
                                                 " that is too large for ", type));
}

}  // namespace lathe
