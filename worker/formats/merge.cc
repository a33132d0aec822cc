#include "worker/formats/merge.h"

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/formats/merged_weights.h"
#include "worker/formats/safetensors.h"
#include "worker/formats/sharded_safetensors.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxFileBytes = size_t{64} << 20;

// The bytes of `row` in the type of the output; false where a value is too large for it.
bool Encode(const std::vector<float>& row, Dtype dtype, std::string& bytes) {
  bytes.resize(row.size() * DtypeSize(dtype));
  if (dtype == Dtype::kF32) {
    std::memcpy(bytes.data(), row.data(), bytes.size());
    return true;
  }
  bool fits = true;
  for (size_t i = 0; i < row.size(); ++i) {
    const bool half = dtype == Dtype::kF16;
    const uint16_t bits = half ? FloatToHalf(row[i]) : FloatToBf16(row[i]);
    fits = fits && std::isfinite(half ? HalfToFloat(bits) : Bf16ToFloat(bits));
    std::memcpy(bytes.data() + 2 * i, &bits, sizeof(bits));
  }
  return fits;
}

absl::Status WriteTensor(const MergedWeights& weights, const TensorView& tensor, Dtype dtype,
                         SafetensorsWriter& writer) {
  MergedTensor merged(weights, tensor);
  std::vector<float> row;
  std::string bytes;
  for (size_t i = 0; i < merged.num_rows(); ++i) {
    LATHE_RETURN_IF_ERROR(merged.Read(i, row));
    if (!Encode(row, dtype, bytes)) return TooLargeError(tensor.name, i, DtypeName(dtype));
    LATHE_RETURN_IF_ERROR(writer.Append(bytes));
  }
  return absl::OkStatus();
}

absl::Status WriteShard(const MergedWeights& weights, const WeightShard& shard,
                        const fs::path& dir) {
  LATHE_ASSIGN_OR_RETURN(SafetensorsWriter writer,
                         SafetensorsWriter::Create(dir / shard.file, shard.tensors));
  for (const TensorSpec& tensor : shard.tensors) {
    LATHE_RETURN_IF_ERROR(
        WriteTensor(weights, *weights.base().Find(tensor.name), tensor.dtype, writer));
  }
  return writer.Finish();
}

absl::Status WriteWeights(const MergedWeights& weights, const MergeOptions& options,
                          const fs::path& dir,
                          const std::function<void(const std::string&)>& progress) {
  std::vector<TensorSpec> tensors;
  for (const TensorView& tensor : weights.base().tensors()) {
    tensors.push_back({tensor.name, options.dtype, tensor.shape});
  }
  const std::vector<WeightShard> shards = PlanShards(tensors, options.max_shard_bytes);
  for (const WeightShard& shard : shards) {
    if (progress) progress(absl::StrCat("writes ", shard.file));
    LATHE_RETURN_IF_ERROR(WriteShard(weights, shard, dir));
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
  LATHE_ASSIGN_OR_RETURN(const MergedWeights weights, MergedWeights::Open(base_dir, adapter_dir));
  LATHE_RETURN_IF_ERROR(MakeFolder(target.parent_path()));
  LATHE_ASSIGN_OR_RETURN(TempFolder folder, TempFolder::Make(".merge", target.parent_path()));
  LATHE_RETURN_IF_ERROR(CopyOtherFiles(base_dir, folder.path(), options.dtype));
  LATHE_RETURN_IF_ERROR(WriteWeights(weights, options, folder.path(), progress));
  return folder.PublishAs(target);
}

}  // namespace lathe
