#include "worker/formats/merge.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/formats/peft.h"
#include "worker/formats/safetensors.h"
#include "worker/formats/sharded_safetensors.h"
#include "worker/formats/strict_json.h"

// O output width, I input width, r rank.

namespace lathe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;
constexpr size_t kMaxFileBytes = size_t{64} << 20;

// The parts of one layer's update; null where the file has none.
struct Parts {
  const TensorView* a = nullptr;          // [r, I]
  const TensorView* b = nullptr;          // [O, r]
  const TensorView* magnitude = nullptr;  // [O]
};

// By the name of the base's weight.
using Updates = std::map<std::string, Parts>;

absl::Status Fault(absl::string_view name, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("adapter_model.safetensors: tensor '", name, "' ", what));
}

absl::StatusOr<Updates> FindUpdates(const SafetensorsFile& adapter) {
  Updates updates;
  for (const TensorView& tensor : adapter.tensors()) {
    absl::string_view name = tensor.name;
    const bool known_start = absl::ConsumePrefix(&name, "base_model.model.");
    const TensorView* Parts::*part = absl::ConsumeSuffix(&name, ".lora_A.weight")   ? &Parts::a
                                     : absl::ConsumeSuffix(&name, ".lora_B.weight") ? &Parts::b
                                     : absl::ConsumeSuffix(&name, ".lora_magnitude_vector")
                                         ? &Parts::magnitude
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

absl::Status CheckUpdate(const std::string& name, const Parts& parts, const AdapterConfig& config,
                         const SafetensorsFile& base) {
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
void ReadFloats(const TensorView& tensor, size_t begin, std::span<float> out) {
  const char* bytes = tensor.bytes.data() + begin * DtypeSize(tensor.dtype);
  if (tensor.dtype == Dtype::kF32) {
    std::memcpy(out.data(), bytes, out.size_bytes());
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

// Rows of one merged weight, one after the other.
class RowMerger {
 public:
  RowMerger(const Parts& parts, double scale)
      : a_(AllFloats(parts.a)),
        b_(AllFloats(parts.b)),
        magnitude_(AllFloats(parts.magnitude)),
        rank_(static_cast<size_t>(parts.a->shape[0])),
        scale_(static_cast<float>(scale)) {}

  // row [I] of W becomes that of W'.
  void Merge(size_t index, std::span<float> row) {
    delta_.assign(row.size(), 0.0F);
    for (size_t k = 0; k < rank_; ++k) {
      const float factor = b_[index * rank_ + k];
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

 private:
  const std::vector<float> a_, b_, magnitude_;
  const size_t rank_;
  const float scale_;
  std::vector<float> delta_;
};

// The bytes of `row` in the type of the output.
std::string Encode(std::span<const float> row, Dtype dtype) {
  std::string bytes(row.size() * DtypeSize(dtype), '\0');
  if (dtype == Dtype::kF32) {
    std::memcpy(bytes.data(), row.data(), bytes.size());
    return bytes;
  }
  for (size_t i = 0; i < row.size(); ++i) {
    const uint16_t bits = dtype == Dtype::kF16 ? FloatToHalf(row[i]) : FloatToBf16(row[i]);
    std::memcpy(bytes.data() + 2 * i, &bits, sizeof(bits));
  }
  return bytes;
}

struct Merge {
  SafetensorsFile base;
  SafetensorsFile adapter;
  AdapterConfig config;
  Updates updates;
  MergeOptions options;
};

absl::StatusOr<Merge> OpenMerge(const fs::path& base_dir, const fs::path& adapter_dir,
                                const MergeOptions& options) {
  LATHE_ASSIGN_OR_RETURN(const std::string text,
                         ReadFile(adapter_dir / "adapter_config.json", kMaxConfigBytes));
  LATHE_ASSIGN_OR_RETURN(AdapterConfig config, ParseAdapterConfig(text));
  LATHE_ASSIGN_OR_RETURN(SafetensorsFile base,
                         SafetensorsFile::Open(base_dir / "model.safetensors"));
  LATHE_RETURN_IF_ERROR(CheckTypes(base, "model.safetensors"));
  LATHE_ASSIGN_OR_RETURN(SafetensorsFile adapter,
                         SafetensorsFile::Open(adapter_dir / "adapter_model.safetensors"));
  LATHE_RETURN_IF_ERROR(CheckTypes(adapter, "adapter_model.safetensors"));
  LATHE_ASSIGN_OR_RETURN(Updates updates, FindUpdates(adapter));
  for (const auto& [name, parts] : updates) {
    LATHE_RETURN_IF_ERROR(CheckUpdate(name, parts, config, base));
  }
  return Merge{std::move(base), std::move(adapter), std::move(config), std::move(updates), options};
}

absl::Status WriteTensor(const Merge& merge, const TensorView& tensor, SafetensorsWriter& writer) {
  const auto found = merge.updates.find(tensor.name);
  const bool is_matrix = tensor.shape.size() == 2;
  const auto num_rows = is_matrix ? static_cast<size_t>(tensor.shape[0]) : size_t{1};
  const size_t num_values = tensor.bytes.size() / DtypeSize(tensor.dtype);
  std::vector<float> row(num_rows == 0 ? 0 : num_values / num_rows);
  std::optional<RowMerger> merger;
  if (found != merge.updates.end()) merger.emplace(found->second, merge.config.Scale());
  for (size_t i = 0; i < num_rows; ++i) {
    ReadFloats(tensor, i * row.size(), row);
    if (merger) merger->Merge(i, row);
    if (!std::all_of(row.begin(), row.end(), [](float x) { return std::isfinite(x); })) {
      return absl::InvalidArgumentError(absl::StrCat(
          "'", tensor.name, "', merged, has a value in row ", i, " that is not finite"));
    }
    LATHE_RETURN_IF_ERROR(writer.Append(Encode(row, merge.options.dtype)));
  }
  return absl::OkStatus();
}

absl::Status WriteShard(const Merge& merge, const WeightShard& shard, const fs::path& dir) {
  LATHE_ASSIGN_OR_RETURN(SafetensorsWriter writer,
                         SafetensorsWriter::Create(dir / shard.file, shard.tensors));
  for (const TensorSpec& tensor : shard.tensors) {
    LATHE_RETURN_IF_ERROR(WriteTensor(merge, *merge.base.Find(tensor.name), writer));
  }
  return writer.Finish();
}

absl::Status WriteWeights(const Merge& merge, const fs::path& dir,
                          const std::function<void(const std::string&)>& progress) {
  std::vector<TensorSpec> tensors;
  for (const TensorView& tensor : merge.base.tensors()) {
    tensors.push_back({tensor.name, merge.options.dtype, tensor.shape});
  }
  const std::vector<WeightShard> shards = PlanShards(tensors, merge.options.max_shard_bytes);
  for (const WeightShard& shard : shards) {
    if (progress) progress(absl::StrCat("writes ", shard.file));
    LATHE_RETURN_IF_ERROR(WriteShard(merge, shard, dir));
  }
  if (shards.size() == 1) return absl::OkStatus();
  return WriteFileAtomically(dir / kShardIndexName, ShardIndexJson(shards));
}

// config.json says the type of the weights; every other file is as it was.
absl::StatusOr<std::string> OtherFile(const fs::path& path, Dtype dtype) {
  LATHE_ASSIGN_OR_RETURN(std::string text, ReadFile(path, kMaxFileBytes));
  if (path.filename() != "config.json") return text;
  LATHE_ASSIGN_OR_RETURN(json config, ParseStrictObject(text, "config.json"));
  const char* const type = dtype == Dtype::kF32   ? "float32"
                           : dtype == Dtype::kF16 ? "float16"
                                                  : "bfloat16";
  if (config.contains("dtype")) config["dtype"] = type;
  if (config.contains("torch_dtype") || !config.contains("dtype")) config["torch_dtype"] = type;
  return config.dump(2) + "\n";
}

absl::Status CopyOtherFiles(const fs::path& base_dir, const fs::path& dir, Dtype dtype) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(base_dir, error)) {
    if (!entry.is_regular_file() || entry.path().extension() == ".safetensors") continue;
    LATHE_ASSIGN_OR_RETURN(const std::string bytes, OtherFile(entry.path(), dtype));
    LATHE_RETURN_IF_ERROR(WriteFileAtomically(dir / entry.path().filename(), bytes));
  }
  return error ? ErrnoToStatus(error.value(), base_dir.string()) : absl::OkStatus();
}

}  // namespace

absl::Status MergeAdapter(const fs::path& base_dir, const fs::path& adapter_dir,
                          const fs::path& output, const MergeOptions& options,
                          const std::function<void(const std::string&)>& progress) {
  fs::path target = fs::absolute(output).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // "out/" is "out".
  LATHE_RETURN_IF_ERROR(RequireNewOrEmptyFolder(target));
  LATHE_ASSIGN_OR_RETURN(const Merge merge, OpenMerge(base_dir, adapter_dir, options));
  LATHE_RETURN_IF_ERROR(MakeFolder(target.parent_path()));
  LATHE_ASSIGN_OR_RETURN(TempFolder folder, TempFolder::Make(".merge", target.parent_path()));
  LATHE_RETURN_IF_ERROR(CopyOtherFiles(base_dir, folder.path(), options.dtype));
  LATHE_RETURN_IF_ERROR(WriteWeights(merge, folder.path(), progress));
  return folder.PublishAs(target);
}

}  // namespace lathe
